package api

import (
	"context"
	"net/http"
)

type (
	membersBody struct {
		UserIDs []int64 `json:"userIds" nullable:"false" maxItems:"1000" doc:"Users of the organization, each once, ascending"`
	}
	membersOutput struct{ Body membersBody }
	membersInput  struct {
		ChatPath
		Body membersBody
	}
)

func (a *API) memberRoutes() {
	handle(a, route{method: http.MethodGet, path: "/chats/{id}/members", tag: "chats", summary: "Who sees the chat while it is restricted",
		description: "Beside its assignee and the organization's admins."}, a.listMembers)
	handle(a, route{method: http.MethodPut, path: "/chats/{id}/members", tag: "chats", summary: "Set the members of a chat",
		description: "These and nobody else. Of a restricted chat who comes in hears chat:new, who goes chat:deleted with the reason access. " +
			"Any user who sees the chat may do this; who leaves himself out loses a restricted chat."}, a.setMembers)
}

func (a *API) listMembers(ctx context.Context, in *ChatPath) (*membersOutput, error) {
	ids, err := a.o.Inbox.Members(ctx, viewer(ctx), in.ID)
	return answerMembers(ids, err)
}

func (a *API) setMembers(ctx context.Context, in *membersInput) (*membersOutput, error) {
	ids, err := a.o.Inbox.SetMembers(ctx, viewer(ctx), in.ID, in.Body.UserIDs)
	return answerMembers(ids, err)
}

func answerMembers(ids []int64, err error) (*membersOutput, error) {
	if err != nil {
		return nil, err
	}
	return &membersOutput{membersBody{append([]int64{}, ids...)}}, nil
}
