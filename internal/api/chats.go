package api

import (
	"context"
	"net/http"

	"roombell/internal/inbox"
)

// Chat is a chat as chat:new carries it.
type Chat struct {
	ID             int64    `json:"id"`
	OrganizationID int64    `json:"organizationId"`
	ChannelID      *int64   `json:"channelId" doc:"The account that it came in by"`
	Channel        string   `json:"channel" enum:"whatsapp,telegram,none"`
	Name           *string  `json:"name"`
	ExternalID     *string  `json:"externalId" doc:"What the channel calls it"`
	Status         string   `json:"status" enum:"new,open,in_progress,pending,resolved,closed"`
	Priority       string   `json:"priority" enum:"low,normal,high,urgent"`
	AssignedUserID *int64   `json:"assignedUserId"`
	Restricted     bool     `json:"restricted" doc:"Seen only by its members, its assignee and admins"`
	UnreadCount    int32    `json:"unreadCount" doc:"Incoming messages without a read mark; at most a second old"`
	LastMessageAt  *string  `json:"lastMessageAt" format:"date-time" doc:"At most a second old"`
	TicketNumber   int64    `json:"ticketNumber" doc:"One sequence, may have gaps"`
	Tags           []string `json:"tags" nullable:"false"`
	CreatedAt      *string  `json:"createdAt" format:"date-time" doc:"null: a time that RFC 3339 cannot say"`
	UpdatedAt      *string  `json:"updatedAt" format:"date-time" doc:"null: a time that RFC 3339 cannot say"`
}

func chatOf(c inbox.Chat) Chat {
	return Chat{ID: c.ID, OrganizationID: c.OrganizationID, ChannelID: c.ChannelID, Channel: c.Channel, Name: c.Name, ExternalID: c.ExternalID,
		Status: c.Status, Priority: c.Priority, AssignedUserID: c.AssignedUserID, Restricted: c.Restricted, UnreadCount: c.UnreadCount,
		LastMessageAt: orNull(c.LastMessageAt), TicketNumber: c.TicketNumber, Tags: append([]string{}, c.Tags...),
		CreatedAt: orNull(c.CreatedAt), UpdatedAt: orNull(c.UpdatedAt)}
}

// orNull is a time's text, or null where it has none.
func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// ChatPath is the parameter of routes of one chat. huma does not look into what is embedded unexported.
type ChatPath struct {
	ID int64 `path:"id" doc:"The chat"`
}

type (
	chatOutput struct{ Body Chat }
	chatsInput struct {
		Paging
		Status         string       `query:"status" enum:"new,open,in_progress,pending,resolved,closed"`
		Priority       string       `query:"priority" enum:"low,normal,high,urgent"`
		Channel        string       `query:"channel" enum:"whatsapp,telegram,none"`
		AssignedUserID Asked[int64] `query:"assignedUserId" doc:"Those that this user is assigned to"`
		Unread         Asked[bool]  `query:"unread" doc:"true: with unread messages; false: without"`
		Q              string       `query:"q" maxLength:"200" doc:"Words, each the beginning of a word of the chat, in any case and order"`
	}
	chatsOutput struct{ Body List[Chat] }

	newChatInput struct {
		Body struct {
			ChannelID      *int64   `json:"channelId,omitempty" nullable:"true" doc:"An account of the organization"`
			Channel        string   `json:"channel,omitempty" enum:"whatsapp,telegram,none" default:"none" doc:"Only without channelId, whose channel it is else"`
			Name           *string  `json:"name,omitempty" nullable:"true" maxLength:"1000"`
			ExternalID     *string  `json:"externalId,omitempty" nullable:"true" maxLength:"1000"`
			Status         string   `json:"status,omitempty" enum:"new,open,in_progress,pending,resolved,closed" default:"new"`
			Priority       string   `json:"priority,omitempty" enum:"low,normal,high,urgent" default:"normal"`
			AssignedUserID *int64   `json:"assignedUserId,omitempty" nullable:"true" doc:"An active user of the organization"`
			Restricted     bool     `json:"restricted,omitempty"`
			Tags           []string `json:"tags,omitempty" nullable:"false" maxItems:"100"`
		}
	}
	changeChatInput struct {
		ChatPath
		Body struct {
			Name           Optional[string] `json:"name,omitempty" maxLength:"1000"`
			ExternalID     Optional[string] `json:"externalId,omitempty" maxLength:"1000"`
			AssignedUserID Optional[int64]  `json:"assignedUserId,omitempty" doc:"An active user of the organization; null: nobody"`
			Status         *string          `json:"status,omitempty" enum:"new,open,in_progress,pending,resolved,closed"`
			Priority       *string          `json:"priority,omitempty" enum:"low,normal,high,urgent"`
			Restricted     *bool            `json:"restricted,omitempty"`
			Tags           []string         `json:"tags,omitempty" nullable:"false" maxItems:"100" doc:"All of them: what is not named goes"`
		}
	}
	assignInput struct {
		ChatPath
		Body struct {
			UserID int64 `json:"userId" doc:"An active user of the organization"`
		}
	}
	readInput struct {
		ChatPath
		Body *struct {
			MessageIDs []int64 `json:"messageIds,omitempty" nullable:"false" maxItems:"1000" doc:"Messages of this chat; absent: all, or with unread the last one that came in"`
			Unread     bool    `json:"unread,omitempty" doc:"true: take the read mark back"`
		} `required:"false"`
	}
)

const (
	searches = "`q` searches name, external id, ticket number and tags; not the messages' content. The words of a chat are divided by spaces and ASCII " +
		"punctuation: `q=ann acm` finds a chat that is named \"Ann\" and tagged `acme-corp`. Of long texts the beginning is searched."
	loses = "Any user who sees the chat may do this. Who restricts a chat, or gives away one that is restricted, without being its member, assignee or " +
		"an admin, is answered with the change, and loses the chat like everybody else whom it leaves out (`chat:deleted` with the reason access). " +
		"He prevents that by making himself a member before."
)

func (a *API) chatRoutes() {
	handle(a, route{method: http.MethodGet, path: "/chats", tag: "chats", summary: "List or search chats", description: "The chats that you may see, the " +
		"newest first; filters add up. What is written while you page moves nothing: no chat comes twice, none that stays is left out. " + searches}, a.listChats)
	handle(a, route{method: http.MethodPost, path: "/chats", tag: "chats", summary: "Make a chat", status: http.StatusCreated,
		description: "Heard as chat:new. Who makes a restricted chat becomes its member, unless he is an admin."}, a.createChat)
	handle(a, route{method: http.MethodGet, path: "/chats/{id}", tag: "chats", summary: "Read a chat"}, a.readChat)
	handle(a, route{method: http.MethodPatch, path: "/chats/{id}", tag: "chats", summary: "Change a chat",
		description: "What is absent stays. Heard as chat:updated with changedByUserId. " + loses}, a.changeChat)
	handle(a, route{method: http.MethodDelete, path: "/chats/{id}", tag: "chats", summary: "Delete a chat and its messages", status: http.StatusNoContent,
		description: "Heard as chat:deleted. Any user who sees the chat may do this."}, a.deleteChat)
	handle(a, route{method: http.MethodPost, path: "/chats/{id}/assign", tag: "chats", summary: "Assign a chat", description: loses}, a.assignChat)
	handle(a, route{method: http.MethodPost, path: "/chats/{id}/unassign", tag: "chats", summary: "Assign a chat to nobody", description: loses}, a.unassignChat)
	handle(a, route{method: http.MethodPost, path: "/chats/{id}/close", tag: "chats", summary: "Close a chat",
		description: "Sets the status to closed. It is heard as chat:updated, unless it was closed."}, a.closeChat)
	handle(a, route{method: http.MethodPost, path: "/chats/{id}/read", tag: "chats", summary: "Mark messages read, or unread again",
		description: "Marks are heard as messages:read with your id as readByUserId; chat:updated with the new count follows within a second, the answer " +
			"has it already. Outgoing messages have no read mark and are passed over. " +
			"With `unread` and no ids the last message that came in loses its mark."}, a.markChat)
}

func (a *API) listChats(ctx context.Context, in *chatsInput) (*chatsOutput, error) {
	page, err := in.page()
	if err != nil {
		return nil, err
	}
	chats, err := a.o.Inbox.Chats(ctx, viewer(ctx), inbox.ChatFilter{Status: orNull(in.Status), Priority: orNull(in.Priority),
		Channel: orNull(in.Channel), AssignedUserID: in.AssignedUserID.pointer(), Unread: in.Unread.pointer(), Words: in.Q}, page)
	if err != nil {
		return nil, err
	}
	return &chatsOutput{listOf(page, chats, func(c inbox.Chat) int64 { return c.ID }, chatOf)}, nil
}

func (a *API) createChat(ctx context.Context, in *newChatInput) (*chatOutput, error) {
	return answerChat(a.o.Inbox.CreateChat(ctx, viewer(ctx), inbox.NewChat(in.Body)))
}

func (a *API) readChat(ctx context.Context, in *ChatPath) (*chatOutput, error) {
	return answerChat(a.o.Inbox.Chat(ctx, viewer(ctx), in.ID))
}

func (a *API) changeChat(ctx context.Context, in *changeChatInput) (*chatOutput, error) {
	b := in.Body
	return answerChat(a.o.Inbox.ChangeChat(ctx, viewer(ctx), in.ID, inbox.ChatChange{
		SetsName: b.Name.Sent, Name: b.Name.Value, SetsExternalID: b.ExternalID.Sent, ExternalID: b.ExternalID.Value,
		SetsAssignedUserID: b.AssignedUserID.Sent, AssignedUserID: b.AssignedUserID.Value,
		Status: b.Status, Priority: b.Priority, Restricted: b.Restricted, Tags: b.Tags}))
}

func (a *API) deleteChat(ctx context.Context, in *ChatPath) (*struct{}, error) {
	return nil, a.o.Inbox.DeleteChat(ctx, viewer(ctx), in.ID)
}

func (a *API) assignChat(ctx context.Context, in *assignInput) (*chatOutput, error) {
	return answerChat(a.o.Inbox.AssignChat(ctx, viewer(ctx), in.ID, &in.Body.UserID))
}

func (a *API) unassignChat(ctx context.Context, in *ChatPath) (*chatOutput, error) {
	return answerChat(a.o.Inbox.AssignChat(ctx, viewer(ctx), in.ID, nil))
}

func (a *API) closeChat(ctx context.Context, in *ChatPath) (*chatOutput, error) {
	closed := "closed"
	return answerChat(a.o.Inbox.ChangeChat(ctx, viewer(ctx), in.ID, inbox.ChatChange{Status: &closed}))
}

func (a *API) markChat(ctx context.Context, in *readInput) (*chatOutput, error) {
	var m inbox.ReadMark
	if in.Body != nil {
		m = inbox.ReadMark(*in.Body)
	}
	return answerChat(a.o.Inbox.ReadChat(ctx, viewer(ctx), in.ID, m))
}

func answerChat(c inbox.Chat, err error) (*chatOutput, error) {
	if err != nil {
		return nil, err
	}
	return &chatOutput{chatOf(c)}, nil
}
