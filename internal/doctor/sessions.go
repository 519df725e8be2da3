package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// session is one of pg_stat_activity, which hides most of another role's from those who are not told otherwise, even that it is a client's.
// Nobody's query is asked for: there may be people's messages in it.
type session struct {
	PID         int32
	User        string
	Application string
	Database    string
	Here        bool
	State       *string  // null: another role's
	Age         *float64 // of the transaction
	Still       *float64 // since the state last changed
}

const sessionColumns = `SELECT pid, coalesce(usename, '')::text, coalesce(application_name, ''), coalesce(datname, '')::text, datname IS NOT DISTINCT FROM current_database(),
	state, extract(epoch FROM clock_timestamp() - xact_start)::float8, extract(epoch FROM clock_timestamp() - state_change)::float8
	FROM pg_stat_activity WHERE pid <> pg_backend_pid()
	AND (backend_type = 'client backend' OR backend_type IS NULL AND usename IS NOT NULL AND datname IS NOT NULL) `

// transactions looks for those that are open for long, in all databases of the server: a snapshot counts them all.
func (d *Doctor) transactions(ctx context.Context) ([]Finding, error) {
	sessions, err := collect[session](ctx, d, sessionColumns+"ORDER BY xact_start")
	if err != nil {
		return nil, err
	}
	var found []Finding
	hidden := 0
	for _, s := range sessions {
		if s.State == nil {
			hidden++
		} else if s.Age != nil {
			found = append(found, d.judgeTransaction(s)...)
		}
	}
	if len(found) == 0 {
		found = append(found, Finding{Code: "transactions_ok", Title: "no transaction is open for long"})
	}
	if hidden > 0 {
		found = append(found, Finding{
			Code: "sessions_hidden", Level: Note, Title: fmt.Sprintf("%s of other roles cannot be looked into", count(hidden, "session", "sessions")),
			Meaning: "A long transaction among them would not be seen.", Remedy: "As superuser: GRANT pg_read_all_stats TO " + d.roleName(ctx) + ";",
		})
	}
	return found, nil
}

func (d *Doctor) roleName(ctx context.Context) string {
	var role string
	if err := d.ask(ctx, "SELECT current_user::text", nil, &role); err != nil {
		return "…"
	}
	return quoteIdentifier(role)
}

func (d *Doctor) judgeTransaction(s session) []Finding {
	age, still := seconds(*s.Age), time.Duration(0)
	if s.Still != nil {
		still = seconds(*s.Still)
	}
	idle := *s.State == "idle in transaction" || *s.State == "idle in transaction (aborted)"
	f := Finding{
		Code: "transaction_old", Level: Warning,
		Title:   fmt.Sprintf("the transaction of pid %d (%s%s) is open for %s", s.PID, who(s), elsewhere(s), span(age)),
		Meaning: "While it is open, slots of the event log that it touched cannot be emptied, clients' cursors grow, and VACUUM does not get on.",
		Remedy:  "End it where it was begun, or:", Command: psql(fmt.Sprintf("SELECT pg_terminate_backend(%d)", s.PID)),
	}
	switch {
	case idle && still >= d.limits.idle:
		f.Code = "transaction_idle"
		f.Title += fmt.Sprintf(" and has done nothing for %s", span(still))
	case age < d.limits.transaction:
		return nil
	}
	return []Finding{f}
}

func who(s session) string {
	if s.Application == "" {
		return "role " + s.User
	}
	return "role " + s.User + ", " + name(s.Application)
}

func elsewhere(s session) string {
	if s.Here {
		return ""
	}
	return ", in database " + s.Database
}

// preparedTransaction is one that waits for COMMIT PREPARED.
type preparedTransaction struct {
	GID   string
	Owner string
	Age   float64
}

// prepared looks for transactions whose coordinator forgot them. They belong to no session and outlive restarts.
func (d *Doctor) prepared(ctx context.Context) ([]Finding, error) {
	all, err := collect[preparedTransaction](ctx, d, `SELECT gid, owner::text, extract(epoch FROM clock_timestamp() - prepared)::float8
		FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared`)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, p := range all {
		if seconds(p.Age) < d.limits.prepared {
			continue
		}
		found = append(found, Finding{
			Code: "prepared_transaction", Level: Warning, Title: fmt.Sprintf("the prepared transaction %s of %s waits for %s", name(p.GID), p.Owner, span(seconds(p.Age))),
			Meaning: "It keeps its locks and holds back what a long transaction holds back, over restarts too. What it wrote is heard when it is committed.",
			Remedy:  "Ask its coordinator; COMMIT PREPARED keeps what it did, ROLLBACK PREPARED takes it back:", Command: psql("ROLLBACK PREPARED " + sqlQuote(p.GID)),
		})
	}
	if len(found) == 0 {
		found = []Finding{{Code: "prepared_ok", Title: "no prepared transaction is forgotten"}}
	}
	return found, nil
}

// service looks for the nodes: each has a connection that says so.
func (d *Doctor) service(ctx context.Context) ([]Finding, error) {
	nodes, err := collect[session](ctx, d, sessionColumns+`AND datname = current_database()
		AND application_name LIKE 'roombell listen%' AND application_name NOT LIKE '% retention' ORDER BY application_name`)
	if err != nil {
		return nil, err
	}
	d.listening = len(nodes)
	if d.listening == 0 {
		return []Finding{{
			Code: "nobody_listens", Level: Note, Title: "no service listens on this database",
			Meaning: "What is written is recorded and waits in the log for the retention. Counters of chats stand still.", Remedy: "Start one:", Command: "roombell serve",
		}}, nil
	}
	var found []Finding
	var names []string
	for _, n := range nodes {
		names = append(names, name(strings.TrimPrefix(n.Application, "roombell listen ")))
		if n.State != nil && n.Still != nil && seconds(*n.Still) > d.limits.silent {
			found = append(found, listenerSilent(n))
		}
	}
	if len(found) == 0 {
		if found, err = d.ringer(ctx); err != nil {
			return nil, err
		}
	}
	if len(found) == 0 {
		found = []Finding{{Code: "service_ok", Title: fmt.Sprintf("%s: %s", count(len(nodes), "node listens and reads", "nodes listen and read"), list(names))}}
	}
	return found, nil
}

func listenerSilent(s session) Finding {
	return Finding{
		Code: "listener_silent", Level: Broken,
		Title:   fmt.Sprintf("the node %s (pid %d in the database) has not read for %s", name(s.Application), s.PID, span(seconds(*s.Still))),
		Meaning: "Each node reads every second at least. This one stands still, is stopped, or its machine is gone: its clients hear nothing.",
		Remedy:  "Restart that process. If it is gone, end its connection:", Command: psql(fmt.Sprintf("SELECT pg_terminate_backend(%d)", s.PID)),
	}
}

// ringer asks whether one of the nodes rings for the others. When the last one has ended another follows within seconds.
func (d *Doctor) ringer(ctx context.Context) ([]Finding, error) {
	for try := 0; ; try++ {
		var held bool
		err := d.ask(ctx, `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 7461 AND objid = 1 AND objsubid = 2 AND granted
			AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`, nil, &held)
		if err != nil || held {
			return nil, err
		}
		if try == 3 {
			return []Finding{{
				Code: "no_ringer", Level: Broken, Title: "nodes listen, and none of them rings",
				Meaning: "Events come late, counters of chats stand still, and the log is not emptied.",
				Remedy:  "See the nodes' logs, and restart one. A transaction-pooling proxy before LISTEN does this.",
			}}, nil
		}
		if err := pause(ctx, time.Second); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context, duration time.Duration) error {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
