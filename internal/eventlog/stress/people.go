package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"roombell/internal/auth"
)

const (
	organizations = 3
	chats         = 40
	people        = 24
	// Every fourth chat is restricted.
	restrictedEvery = 4
)

// person is a user, and what he may see; it does not change during a run.
type person struct {
	id, organization int64
	admin            bool
	member           map[int64]bool // of restricted chats
	token            string
}

// chat is one of the chats that writers use.
type chat struct {
	id, organization int64
	restricted       bool
}

// sees tells whether the person was ever allowed to hear of the chat (0: of none). Of a chat that we did not make he was not.
func (w *world) sees(p *person, chatID int64) bool {
	if chatID == 0 {
		return true
	}
	c, ok := w.chats[chatID]
	return ok && c.organization == p.organization && (!c.restricted || p.admin || p.member[chatID])
}

// populate makes the organizations, their people and chats, and a token for each of the people.
func (w *world) populate(ctx context.Context) error {
	_, err := w.pool.Exec(ctx, fmt.Sprintf(`
		INSERT INTO organizations (name) SELECT 'organization ' || n FROM generate_series(1, %[1]d) n;
		INSERT INTO users (organization_id, email, role)
		  SELECT 1 + n %% %[1]d, n || '@example.com', CASE WHEN n <= %[1]d THEN 'admin' WHEN n <= 2 * %[1]d THEN 'manager' ELSE 'employee' END
		  FROM generate_series(1, %[2]d) n;
		INSERT INTO chats (organization_id, name, restricted)
		  SELECT 1 + n %% %[1]d, '0', n %% %[4]d = 0 FROM generate_series(1, %[3]d) n;
		INSERT INTO chat_members (chat_id, user_id)
		  SELECT c.id, u.id FROM chats c JOIN users u USING (organization_id) WHERE c.restricted AND (c.id / %[4]d + u.id) %% 2 = 0`,
		organizations, people, chats, restrictedEvery))
	if err != nil {
		return fmt.Errorf("fill the tables: %w", err)
	}
	if err := w.readChats(ctx); err != nil {
		return fmt.Errorf("read the chats: %w", err)
	}
	return w.readPeople(ctx)
}

func (w *world) readChats(ctx context.Context) error {
	w.chats = map[int64]chat{}
	rows, err := w.pool.Query(ctx, `SELECT id, organization_id, restricted FROM chats`)
	if err != nil {
		return err
	}
	var c chat
	_, err = pgx.ForEachRow(rows, []any{&c.id, &c.organization, &c.restricted}, func() error {
		w.chats[c.id] = c
		return nil
	})
	return err
}

func (w *world) readPeople(ctx context.Context) error {
	w.secret = rand.Text() + rand.Text()
	issuer, err := auth.NewIssuer([]byte(w.secret), auth.Claims{}, nil)
	if err != nil {
		return err
	}
	rows, err := w.pool.Query(ctx, `
		SELECT id, organization_id, role = 'admin', ARRAY(SELECT chat_id FROM chat_members WHERE user_id = users.id) FROM users ORDER BY id`)
	if err != nil {
		return err
	}
	var p person
	var member []int64
	_, err = pgx.ForEachRow(rows, []any{&p.id, &p.organization, &p.admin, &member}, func() error {
		one := p
		one.member = map[int64]bool{}
		for _, id := range member {
			one.member[id] = true
		}
		one.token, _, err = issuer.Issue(auth.Identity{UserID: p.id, OrganizationID: p.organization}, 24*time.Hour)
		w.people = append(w.people, &one)
		return err
	})
	return err
}
