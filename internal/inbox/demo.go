package inbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"roombell/db"
)

// ErrForeign says that a database has organizations that demo data did not make.
var ErrForeign = errors.New("the database has organizations that are not demo data")

// Origin says whose organizations a database has.
type Origin int

// What `roombell dev` may write to are the first two, and the third where the database is its own.
const (
	OriginEmpty   Origin = iota // there are none
	OriginDemo                  // all were made by Demo
	OriginGrown                 // others came beside those that Demo made
	OriginForeign               // none was made by Demo
)

// DemoUser is somebody to log in as.
type DemoUser struct {
	ID             int64
	OrganizationID int64
	Organization   string
	Email          string
	Name           string
	Role           string
	Generation     int32 // of his tokens
}

// DemoOrigin looks at a migrated database.
func DemoOrigin(ctx context.Context, q db.DBTX) (Origin, error) {
	var all, marked int
	query := "SELECT count(*), 0 FROM organizations"
	there, err := hasDemoMark(ctx, q)
	if there {
		query = "SELECT count(*), count(d.organization_id) FROM organizations o LEFT JOIN roombell.demo d ON d.organization_id = o.id"
	}
	if err == nil {
		err = q.QueryRow(ctx, query).Scan(&all, &marked)
	}
	switch {
	case err != nil:
		return OriginForeign, fmt.Errorf("look for demo data: %w", err)
	case all == 0:
		return OriginEmpty, nil
	case all == marked:
		return OriginDemo, nil
	case marked > 0:
		return OriginGrown, nil
	}
	return OriginForeign, nil
}

func hasDemoMark(ctx context.Context, q db.DBTX) (there bool, err error) {
	err = q.QueryRow(ctx, "SELECT to_regclass('roombell.demo') IS NOT NULL").Scan(&there)
	return there, err
}

// Demo fills an empty database with two organizations, five users, and a few chats with messages, and marks it. One that it filled before
// stays as it is. It returns the users of the demo organizations by id. The password is hashed by the given function, and only when users are
// made. A database with organizations of which Demo made none gives ErrForeign.
func Demo(ctx context.Context, b db.Beginner, password string, hash func(string) (string, error)) ([]DemoUser, error) {
	var users []DemoUser
	err := db.InTx(ctx, b, func(tx pgx.Tx) error {
		// Two that start at once must not both find it empty.
		_, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtext('roombell.demo'))")
		if err != nil {
			return fmt.Errorf("lock demo data: %w", err)
		}
		origin, err := DemoOrigin(ctx, tx)
		if err != nil {
			return err
		}
		switch origin {
		case OriginForeign:
			return ErrForeign
		case OriginEmpty:
			if err := createDemo(ctx, tx, password, hash); err != nil {
				return fmt.Errorf("create demo data: %w", err)
			}
		}
		users, err = demoUsers(ctx, tx)
		return err
	})
	return users, err
}

func demoUsers(ctx context.Context, tx pgx.Tx) ([]DemoUser, error) {
	rows, err := tx.Query(ctx, `SELECT u.id, u.organization_id, o.name, u.email, u.name, u.role, u.token_generation
		FROM roombell.demo d JOIN organizations o ON o.id = d.organization_id JOIN users u ON u.organization_id = o.id
		WHERE u.active ORDER BY u.id`)
	if err != nil {
		return nil, fmt.Errorf("read demo users: %w", err)
	}
	users, err := pgx.CollectRows(rows, pgx.RowToStructByPos[DemoUser])
	if err != nil {
		return nil, fmt.Errorf("read demo users: %w", err)
	}
	return users, nil
}

type demoOrganization struct {
	name  string
	users []demoPerson
	chats []demoChat
}

type demoPerson struct{ email, name, role string }

type demoChat struct {
	name       string
	channel    int // of the organization's channels
	status     string
	priority   string
	assigned   string // a user's email
	restricted bool
	members    []string
	tags       []string
	messages   []demoMessage // oldest first
}

type demoMessage struct {
	from    string // a user's email; empty: the customer
	content string
	unread  bool
}

// demoOrganizations are what Demo makes. The domain is reserved for examples (RFC 2606): no mail can reach anybody.
var demoOrganizations = []demoOrganization{
	{
		name: "Acme Support",
		users: []demoPerson{
			{"alice@acme.example", "Alice Martin", "admin"},
			{"bob@acme.example", "Bob Keller", "manager"},
			{"carol@acme.example", "Carol Osei", "employee"},
		},
		chats: []demoChat{
			{name: "Dana Whitfield", status: "open", priority: "high", assigned: "carol@acme.example", tags: []string{"delivery"}, messages: []demoMessage{
				{content: "Hello! My parcel was due on Tuesday and has not come."},
				{from: "carol@acme.example", content: "Good morning, I am looking into it. Do you have the order number?"},
				{content: "Yes: 4471-B.", unread: true},
			}},
			{name: "Piotr Nowak", status: "new", priority: "normal", messages: []demoMessage{
				{content: "Do you ship to Norway?", unread: true},
				{content: "And what would it cost?", unread: true},
			}},
			{name: "Green Grocers Ltd", channel: 1, status: "in_progress", priority: "normal", assigned: "bob@acme.example", tags: []string{"invoice", "b2b"},
				messages: []demoMessage{
					{content: "The invoice of May lists one pallet too many."},
					{from: "bob@acme.example", content: "Thank you, the corrected one is on its way."},
				}},
			{name: "Complaint 17", status: "pending", priority: "urgent", restricted: true, members: []string{"bob@acme.example"}, tags: []string{"legal"},
				messages: []demoMessage{
					{content: "I want to speak to somebody who decides."},
					{from: "alice@acme.example", content: "That is me. What happened?"},
					{content: "I will write it down tonight.", unread: true},
				}},
		},
	},
	{
		name: "Borealis Travel",
		users: []demoPerson{
			{"erik@borealis.example", "Erik Sund", "admin"},
			{"fatima@borealis.example", "Fatima Haddad", "employee"},
		},
		chats: []demoChat{
			{name: "Lucia Romano", status: "open", priority: "normal", assigned: "fatima@borealis.example", messages: []demoMessage{
				{content: "Is the cabin of the 14th still free?"},
				{from: "fatima@borealis.example", content: "It is. Shall I hold it until tomorrow?"},
				{content: "Please do!", unread: true},
			}},
			{name: "Tomás Vega", channel: 1, status: "resolved", priority: "low", tags: []string{"refund"}, messages: []demoMessage{
				{content: "The refund has arrived, thanks."},
			}},
		},
	},
}

func createDemo(ctx context.Context, tx pgx.Tx, password string, hash func(string) (string, error)) error {
	for _, statement := range []string{
		"CREATE TABLE IF NOT EXISTS roombell.demo (organization_id bigint PRIMARY KEY REFERENCES public.organizations ON DELETE CASCADE)",
		"COMMENT ON TABLE roombell.demo IS 'Organizations that roombell dev made. Only these get demo messages.'",
	} {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return err
		}
	}
	for _, o := range demoOrganizations {
		if err := createDemoOrganization(ctx, tx, o, password, hash); err != nil {
			return err
		}
	}
	return nil
}

func createDemoOrganization(ctx context.Context, tx pgx.Tx, o demoOrganization, password string, hash func(string) (string, error)) error {
	queries := db.New(tx)
	organization, err := queries.CreateOrganization(ctx, o.name)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "INSERT INTO roombell.demo (organization_id) VALUES ($1)", organization); err != nil {
		return err
	}
	users := map[string]int64{}
	for _, u := range o.users {
		hashed, err := hash(password)
		if err != nil {
			return fmt.Errorf("hash the demo password: %w", err)
		}
		users[u.email], err = queries.CreateUser(ctx, db.CreateUserParams{
			OrganizationID: organization, Email: u.email, Name: u.name, Role: u.role, PasswordHash: &hashed,
		})
		if err != nil {
			return err
		}
	}
	// Provider none: what is written here must never leave the house.
	rows, err := tx.Query(ctx, "INSERT INTO channels (organization_id, provider, name) VALUES ($1, 'none', 'Website'), ($1, 'none', 'Front desk') RETURNING id",
		organization)
	if err != nil {
		return err
	}
	channels, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	for _, c := range o.chats {
		if err := createDemoChat(ctx, tx, organization, channels[c.channel], users, c); err != nil {
			return err
		}
	}
	return nil
}

func createDemoChat(ctx context.Context, tx pgx.Tx, organization, channel int64, users map[string]int64, c demoChat) error {
	var assigned *int64
	if id, ok := users[c.assigned]; ok {
		assigned = &id
	}
	tags := c.tags
	if tags == nil {
		tags = []string{}
	}
	var chat int64
	err := tx.QueryRow(ctx, `INSERT INTO chats (organization_id, channel_id, name, status, priority, assigned_user_id, restricted, tags)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id`,
		organization, channel, c.name, c.status, c.priority, assigned, c.restricted, tags).Scan(&chat)
	if err != nil {
		return err
	}
	for _, email := range c.members {
		if _, err := tx.Exec(ctx, "INSERT INTO chat_members (chat_id, user_id) VALUES ($1, $2)", chat, users[email]); err != nil {
			return err
		}
	}
	for i, m := range c.messages {
		var sender *int64
		status := "received"
		if id, ok := users[m.from]; ok {
			sender, status = &id, "read"
		}
		// Minutes apart, so that they stand in order.
		_, err := tx.Exec(ctx, `INSERT INTO messages (chat_id, channel_id, from_me, sender_user_id, content, status, is_read_by_operator, timestamp)
			VALUES ($1, $2, $3, $4, $5, $6, $7, now() - make_interval(mins => $8))`,
			chat, channel, sender != nil, sender, m.content, status, sender == nil && !m.unread, 3*(len(c.messages)-i))
		if err != nil {
			return err
		}
	}
	return nil
}
