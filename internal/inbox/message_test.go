package inbox

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"roombell/db"
	"roombell/internal/postgres/dbtest"
)

// What everybody does all day reads by index, also with the plan that a connection keeps for all values; pages come in the index's order.
func TestMessagesAreReadByIndex(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	chats := newChats(t, d.Pool, 300)
	v := Viewer{Role: Employee}
	check(t, d.Pool.QueryRow(t.Context(), "SELECT organization_id FROM chats WHERE id = $1", chats[0]).Scan(&v.OrganizationID))
	var err error
	v.ID, err = db.New(d.Pool).CreateUser(t.Context(), db.CreateUserParams{OrganizationID: v.OrganizationID, Email: "a@example.com", Role: Employee})
	check(t, err)
	exec(t, d.Pool, "INSERT INTO users (organization_id, email) SELECT $1, g || '@example.com' FROM generate_series(1, 3000) g", v.OrganizationID)
	exec(t, d.Pool, "INSERT INTO chat_members (chat_id, user_id) SELECT c, u.id FROM unnest($1::bigint[]) c, (SELECT id FROM users LIMIT 20) u", chats)
	exec(t, d.Pool, "INSERT INTO messages (chat_id, content) SELECT c, 'hi' FROM unnest($1::bigint[]) c, generate_series(1, 50)", chats)
	exec(t, d.Pool, "INSERT INTO notifications (user_id) SELECT id FROM users, generate_series(1, 5)")
	exec(t, d.Pool, `INSERT INTO idempotency_keys (organization_id, user_id, key, request, status, answer)
		SELECT organization_id, id, 'k' || g, '', 202, '{}' FROM users, generate_series(1, 3) g`)
	exec(t, d.Pool, "ANALYZE")

	pool, plans := explained(t, d.AdminURL)
	i := New(pool)
	below := Place{Time: "2001-01-01T00:00:00Z", ID: 1}
	_, err = i.Messages(t.Context(), v, chats[7], below, 50)
	check(t, err)
	_, err = i.Notifications(t.Context(), v, false, below, 50)
	check(t, err)
	s, err := i.SendMessage(t.Context(), v, chats[7], NewMessage{Content: "x"}, Once{Key: "new", Request: []byte{1}})
	check(t, err)
	_, err = i.Message(t.Context(), v, s.Message.ID)
	check(t, err)
	told := plans()
	for _, word := range []string{"Seq Scan on", "Sort", "Bitmap"} {
		if strings.Contains(told, word) {
			t.Errorf("there is a %s in\n%s", word, told)
		}
	}
	for _, word := range []string{"Index Cond: ((chat_id = $1) AND (ROW(", "Index Cond: ((user_id = $1) AND (ROW(", "using idempotency_keys_pkey", "using messages_chat"} {
		if !strings.Contains(told, word) {
			t.Errorf("there is no %s in\n%s", word, told)
		}
	}
}

// explained is a pool whose one connection keeps a plan from the first, and the plans of all statements that we sent by it, without those of triggers.
func explained(t *testing.T, url string) (pool *pgxpool.Pool, plans func() string) {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	check(t, err)
	config.MaxConns = 1
	var mu sync.Mutex
	var told strings.Builder
	config.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		mu.Lock()
		defer mu.Unlock()
		told.WriteString(n.Message + "\n")
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET client_min_messages = log; SET plan_cache_mode = force_generic_plan`)
		return err
	}
	pool, err = pgxpool.NewWithConfig(t.Context(), config)
	check(t, err)
	t.Cleanup(pool.Close)
	return pool, func() string {
		mu.Lock()
		defer mu.Unlock()
		return told.String()
	}
}
