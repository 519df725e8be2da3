package inbox

import (
	"context"
	"fmt"
	"time"

	"roombell/db"
)

// Things names messages, chats and notifications.
type Things struct{ Messages, Chats, Notifications []int64 }

// Living returns those of the things that exist. It does not look at who asks: what is in the log of a thing he may see is his to read.
func (i *Inbox) Living(ctx context.Context, named Things) (living Things, err error) {
	if len(named.Messages) > 0 {
		if living.Messages, err = i.queries.ListLivingMessages(ctx, named.Messages); err != nil {
			return Things{}, fmt.Errorf("look which messages exist: %w", err)
		}
	}
	if len(named.Chats) > 0 {
		if living.Chats, err = i.queries.ListChatIDs(ctx, named.Chats); err != nil {
			return Things{}, fmt.Errorf("look which chats exist: %w", err)
		}
	}
	if len(named.Notifications) > 0 {
		if living.Notifications, err = i.queries.ListLivingNotifications(ctx, named.Notifications); err != nil {
			return Things{}, fmt.Errorf("look which notifications exist: %w", err)
		}
	}
	return living, nil
}

// Span says where the log has a message's events: between two times of the database's clock, and in the last writer's transaction.
type Span struct {
	ChatID               int64
	WrittenAt, ChangedAt time.Time
	ChangedBy            int64
}

// MessageSpan returns that of a message that the viewer may see, or ErrNotFound.
func (i *Inbox) MessageSpan(ctx context.Context, v Viewer, id int64) (Span, error) {
	row, err := i.queries.GetMessageSpan(ctx, id, v.OrganizationID)
	if db.IsNotFound(err) {
		return Span{}, ErrNotFound
	}
	if err != nil {
		return Span{}, fmt.Errorf("read when a message changed: %w", err)
	}
	sees, err := i.queries.SeesChat(ctx, row.ChatID, v.OrganizationID, v.ID)
	switch {
	case err != nil:
		return Span{}, fmt.Errorf("read rights on a chat: %w", err)
	case !sees:
		return Span{}, ErrNotFound
	}
	return Span{ChatID: row.ChatID, WrittenAt: row.WrittenAt, ChangedAt: row.ChangedAt, ChangedBy: row.ChangedBy}, nil
}
