package inbox

import (
	"context"
	"fmt"
	"slices"

	"roombell/db"
)

// Members returns the users who see a chat even while it is restricted, beside its assignee and admins, ascending; or ErrNotFound.
func (i *Inbox) Members(ctx context.Context, v Viewer, chatID int64) ([]int64, error) {
	if _, err := i.Chat(ctx, v, chatID); err != nil {
		return nil, err
	}
	return listMembers(ctx, i.queries, chatID)
}

// SetMembers makes these users the chat's members, and nobody else. The viewer may leave himself out.
func (i *Inbox) SetMembers(ctx context.Context, v Viewer, chatID int64, userIDs []int64) (members []int64, err error) {
	wanted := append([]int64{}, slices.Compact(slices.Sorted(slices.Values(userIDs)))...) // nil would be NULL, and remove nobody
	err = i.onChat(ctx, v, chatID, func(q *db.Queries) error {
		if err := checkUsers(ctx, q, v, wanted); err != nil {
			return err
		}
		if err := q.RemoveOtherMembers(ctx, chatID, wanted); err != nil {
			return fmt.Errorf("remove members: %w", err)
		}
		if err := q.AddMembers(ctx, chatID, wanted, v.OrganizationID); err != nil {
			return fmt.Errorf("add members: %w", err)
		}
		members, err = listMembers(ctx, q, chatID)
		return err
	})
	return members, err
}

// checkUsers refuses users who are not the organization's.
func checkUsers(ctx context.Context, q *db.Queries, v Viewer, userIDs []int64) error {
	known, err := q.ListUserIDsOf(ctx, userIDs, v.OrganizationID)
	if err != nil {
		return fmt.Errorf("look for users: %w", err)
	}
	for _, id := range userIDs {
		if _, ok := slices.BinarySearch(known, id); !ok {
			return &InvalidError{Field: "userIds", Message: fmt.Sprintf("there is no user %d", id)}
		}
	}
	return nil
}

func listMembers(ctx context.Context, q *db.Queries, chatID int64) ([]int64, error) {
	members, err := q.ListMemberIDs(ctx, chatID)
	if err != nil {
		return nil, fmt.Errorf("list members: %w", err)
	}
	return members, nil
}
