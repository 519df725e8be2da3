package inbox

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"roombell/db"
	"roombell/internal/postgres/dbtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, dbtest.IgnoreServer()) }

func TestAccess(t *testing.T) {
	t.Parallel()
	d := dbtest.New(t)
	access := NewAccess(d.Pool)
	organization := number(t, d.Pool, "INSERT INTO organizations (name) VALUES ('a') RETURNING id")
	other := number(t, d.Pool, "INSERT INTO organizations (name) VALUES ('b') RETURNING id")
	user := func(organization int64, email, role string) int64 {
		return number(t, d.Pool, "INSERT INTO users (organization_id, email, role) VALUES ($1, $2, $3) RETURNING id", organization, email, role)
	}
	admin, manager := user(organization, "admin@example.com", "admin"), user(organization, "manager@example.com", "manager")
	member, assignee := user(organization, "member@example.com", "employee"), user(organization, "assignee@example.com", "employee")
	disabled := user(organization, "disabled@example.com", "admin")
	exec(t, d.Pool, "UPDATE users SET active = false WHERE id = $1", disabled)
	stranger := user(other, "stranger@example.com", "admin")
	open := number(t, d.Pool, "INSERT INTO chats (organization_id) VALUES ($1) RETURNING id", organization)
	closed := number(t, d.Pool, "INSERT INTO chats (organization_id, restricted, assigned_user_id) VALUES ($1, true, $2) RETURNING id", organization, assignee)
	exec(t, d.Pool, "INSERT INTO chat_members (chat_id, user_id) VALUES ($1, $2)", closed, member)

	for _, test := range []struct {
		name         string
		user         int64
		open, closed bool
	}{
		{"admin", admin, true, true},
		{"manager", manager, true, false},
		{"member", member, true, true},
		{"assignee", assignee, true, true},
		{"disabled admin", disabled, false, false},
		{"admin of another organization", stranger, false, false},
		{"nobody", 1 << 60, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var want []int64
			for chat, sees := range map[int64]bool{open: test.open, closed: test.closed} {
				if err := access.Chat(t.Context(), test.user, organization, chat); sees != (err == nil) || err != nil && !errors.Is(err, ErrNotFound) {
					t.Errorf("chat %d: %v", chat, err)
				}
				// Whatever the caller says about the organization, the table decides.
				if err := access.Chat(t.Context(), test.user, other, chat); !errors.Is(err, ErrNotFound) {
					t.Errorf("chat %d as of another organization: %v", chat, err)
				}
				if sees {
					want = append(want, chat)
				}
			}
			slices.Sort(want)
			got, err := access.Chats(t.Context(), test.user, []int64{closed, open, 1 << 60, open})
			check(t, err)
			if !slices.Equal(got, want) {
				t.Errorf("sees %v, want %v", got, want)
			}
		})
	}

	got, err := access.Users(t.Context(), []int64{1 << 60, disabled})
	check(t, err)
	if want := []User{{ID: disabled, OrganizationID: organization, Email: "disabled@example.com", Role: "admin", Generation: 1}}; !slices.Equal(got, want) {
		t.Errorf("users are %+v, want %+v", got, want)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := access.Chat(canceled, admin, organization, open); err == nil || errors.Is(err, ErrNotFound) {
		t.Errorf("an error of the database was given as %v", err)
	}
}

func exec(t *testing.T, q db.DBTX, statement string, args ...any) {
	t.Helper()
	if _, err := q.Exec(t.Context(), statement, args...); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func number(t *testing.T, q db.DBTX, query string, args ...any) int64 {
	t.Helper()
	var n int64
	if err := q.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually asks until it is so, for at most 30 seconds.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for !so() {
		select {
		case <-deadline.C:
			t.Fatalf("waited in vain for: %s", what)
		case <-ticker.C:
		}
	}
}
