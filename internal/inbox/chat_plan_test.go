package inbox_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"roombell/internal/inbox"
	"roombell/internal/postgres/dbtest"
)

// explaining has each query explained in place of answered: what the inbox really sends, with its arguments.
type explaining struct {
	*pgxpool.Pool
	plan string
}

var errExplained = errors.New("explained")

func (e *explaining) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	rows, err := e.Pool.Query(ctx, "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) "+sql, args...)
	if err != nil {
		return nil, err
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	e.plan = strings.Join(lines, "\n")
	return nil, errors.Join(errExplained, err)
}

// pages is how many pages of tables and indexes the query touched.
func (e *explaining) pages(t *testing.T) (pages int) {
	t.Helper()
	found := regexp.MustCompile(`Buffers: shared hit=(\d+)(?: read=(\d+))?`).FindStringSubmatch(e.plan)
	for _, text := range found[1:] {
		var n int
		if _, err := fmt.Sscan(text, &n); err == nil {
			pages += n
		}
	}
	return pages
}

// listed is a database with a large organization, a hundred others, and a small one.
type listed struct {
	pool          *pgxpool.Pool
	chats         int
	large, small  inbox.Viewer
	busy, idle    int64 // users of the large one with many and with few chats
	middle, floor int64 // ids in the middle and near the end of the large one's list
}

func newListed(t *testing.T) *listed {
	t.Helper()
	l := &listed{pool: dbtest.New(t).Pool, chats: 100_000}
	if testing.Short() {
		l.chats = 20_000
	}
	l.large, l.small = l.organization(t), l.organization(t)
	l.busy = scan[int64](t, l.pool, "INSERT INTO users (organization_id, email) VALUES ($1, 'busy') RETURNING id", l.large.OrganizationID)
	l.idle = scan[int64](t, l.pool, "INSERT INTO users (organization_id, email) VALUES ($1, 'idle') RETURNING id", l.large.OrganizationID)
	for range 10 { // in turns, as chats come in
		l.fill(t, l.large, l.chats/10, "n % 10 = 3")
		for range 10 {
			l.fill(t, l.organization(t), 20, "n % 10 = 3")
		}
	}
	l.fill(t, l.small, 20, "n % 10 = 3")
	exec(t, l.pool, "UPDATE chats SET assigned_user_id = $2 WHERE organization_id = $1 AND id % 3 = 0", l.large.OrganizationID, l.busy)
	exec(t, l.pool, "UPDATE chats SET assigned_user_id = $2 WHERE id IN (SELECT id FROM chats WHERE organization_id = $1 ORDER BY id LIMIT 5)", l.large.OrganizationID, l.idle)
	exec(t, l.pool, "VACUUM ANALYZE")
	l.middle = scan[int64](t, l.pool, "SELECT (min(id) + max(id)) / 2 FROM chats WHERE organization_id = $1", l.large.OrganizationID)
	l.floor = scan[int64](t, l.pool, "SELECT min(id) + 60 FROM chats WHERE organization_id = $1", l.large.OrganizationID)
	return l
}

func (l *listed) organization(t *testing.T) inbox.Viewer {
	t.Helper()
	id := scan[int64](t, l.pool, "INSERT INTO organizations (name) VALUES ('o') RETURNING id")
	user := scan[int64](t, l.pool, "INSERT INTO users (organization_id, email) VALUES ($1, $2) RETURNING id", id, fmt.Sprint("u", id))
	return inbox.Viewer{ID: user, OrganizationID: id, Role: inbox.Employee}
}

// fill makes chats of which most are closed and none is urgent but a few old ones.
func (l *listed) fill(t *testing.T, v inbox.Viewer, chats int, restricted string) {
	t.Helper()
	exec(t, l.pool, fmt.Sprintf(`INSERT INTO chats (organization_id, name, external_id, status, priority, channel, restricted, unread_count, tags)
		SELECT $1, 'customer ' || md5(n::text), '49' || n, CASE n %% 20 WHEN 0 THEN 'open' WHEN 1 THEN 'new' ELSE 'closed' END,
			CASE WHEN n %% 1000 = 7 THEN 'urgent' ELSE 'normal' END, CASE WHEN n < 20 THEN 'telegram' ELSE 'whatsapp' END, %s,
			CASE WHEN n %% 50 = 0 THEN 3 ELSE 0 END, ARRAY['team-' || n %% 7] FROM generate_series(1, $2::int) n`, restricted), v.OrganizationID, chats)
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(t.Context(), "SET roombell.notify = 'off'"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "RESET roombell.notify"); err != nil {
		t.Fatal(err)
	}
}

func scan[T any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) (value T) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

// Every list goes through an index that gives its order, reads about as much as it shows, and none sorts or reads the table.
func TestListsOfChatsUseTheirIndexes(t *testing.T) {
	t.Parallel()
	l := newListed(t)
	admin := l.large
	admin.Role = inbox.Admin
	open, urgent, telegram, unread := "open", "urgent", "telegram", true
	// Where most chats are one organization's the planner takes the primary key for its list: little is passed over.
	byID, byWords := "Index Scan Backward using (chats_organization_id_id_key|chats_pkey)", "chats_words"
	for _, test := range []struct {
		name   string
		filter inbox.ChatFilter
		index  string
		pages  int // touched for a page of 50, beside one for each row
	}{
		{"all", inbox.ChatFilter{}, byID, 100},
		{"status", inbox.ChatFilter{Status: &open}, "chats_status", 200},
		{"priority", inbox.ChatFilter{Priority: &urgent}, "chats_priority", 200},
		{"channel", inbox.ChatFilter{Channel: &telegram}, "chats_channel_kind", 200},
		{"assigned to one with few", inbox.ChatFilter{AssignedUserID: &l.idle}, "chats_assignee", 200},
		{"assigned to one with many", inbox.ChatFilter{AssignedUserID: &l.busy}, "chats_assignee", 200},
		{"unread", inbox.ChatFilter{Unread: &unread}, byID, 3000},
		{"a word", inbox.ChatFilter{Words: "49777"}, byWords, 400},
		{"two words", inbox.ChatFilter{Words: "customer 49777"}, byWords, 400},
		{"nobody's word", inbox.ChatFilter{Words: "zebra"}, byWords, 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, v := range map[string]inbox.Viewer{"employee": l.large, "admin": admin} {
				for _, after := range []int64{0, l.middle, l.floor} {
					e := &explaining{Pool: l.pool}
					_, err := inbox.New(e).Chats(t.Context(), v, test.filter, inbox.Page{After: after, Limit: 50})
					if !errors.Is(err, errExplained) {
						t.Fatal(err)
					}
					what := fmt.Sprintf("%s, after %d", name, after)
					// So near the end there is little left to read, by whatever index.
					if after != l.floor && !regexp.MustCompile(test.index).MatchString(e.plan) || strings.Contains(e.plan, "Seq Scan on chats") {
						t.Errorf("%s: not by %s\n%s", what, test.index, e.plan)
					}
					if pages := e.pages(t); pages > test.pages {
						t.Errorf("%s: %d pages, want at most %d\n%s", what, pages, test.pages, e.plan)
					}
				}
			}
			// A small one is read by whatever index: all that counts is that it is not the price of the large one.
			e := &explaining{Pool: l.pool}
			if _, err := inbox.New(e).Chats(t.Context(), l.small, test.filter, inbox.Page{Limit: 50}); !errors.Is(err, errExplained) {
				t.Fatal(err)
			}
			if pages := e.pages(t); pages > 200 || strings.Contains(e.plan, "Seq Scan on chats") {
				t.Errorf("the small organization's takes %d pages\n%s", pages, e.plan)
			}
		})
	}
}
