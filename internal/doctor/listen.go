package doctor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	channelName = "roombell"
	// Tails take a payload that begins like this for the echo of somebody's check, and read nothing.
	pingPrefix = "ping "

	// holders is how many connections hold a transaction at a time, to make a pooling proxy give one of them the listener's backend.
	holders = 3
)

// listen makes a listener's connection and sends it a NOTIFY by the way that writers take.
func (d *Doctor) listen(ctx context.Context) ([]Finding, error) {
	conn, err := d.connectListener(ctx)
	if err != nil {
		return []Finding{{
			Code: "listen_unreachable", Level: Broken, Title: "the address for LISTEN cannot be reached", Err: err,
			Meaning: "Nobody hears anything. " + sentence(clean(err)),
			Remedy:  "See that ROOMBELL_LISTEN_DATABASE_URL is right: the primary of the same database, without a proxy in between.",
		}}, nil
	}
	defer closeConn(ctx, conn)
	s, err := askServer(ctx, conn)
	if err != nil {
		return nil, err
	}
	if f := primary(s.standby, s.readOnly); f.Level > OK {
		f.Code, f.Title = "listen_read_only", "the address for LISTEN: "+f.Title
		if s.standby {
			f.Code = "listen_standby"
		}
		f.Remedy = "Let ROOMBELL_LISTEN_DATABASE_URL name the primary."
		return []Finding{f}, nil
	}
	if same, err := d.sameDatabase(ctx, conn); err != nil || !same {
		return otherDatabase, err
	}
	if _, err := conn.Exec(ctx, "LISTEN "+channelName); err != nil {
		return nil, err
	}
	pooled, err := d.pooled(ctx, conn)
	if err != nil {
		return nil, err
	}
	if pooled {
		return []Finding{pooling}, nil
	}
	return d.roundTrip(ctx, conn)
}

var pooling = Finding{
	Code: "listen_pooled", Level: Broken, Title: "a transaction-pooling proxy stands between LISTEN and PostgreSQL",
	Meaning: "Each transaction goes to another connection of the proxy's, so that LISTEN is forgotten at once and locks end up with strangers: " +
		"events come late or not at all, and nodes believe in two ringers.",
	Remedy: "Set ROOMBELL_LISTEN_DATABASE_URL to a direct address of PostgreSQL, or to one with pool_mode = session; DATABASE_URL may stay as it is.",
}

var otherDatabase = []Finding{{
	Code: "listen_elsewhere", Level: Broken, Title: "ROOMBELL_LISTEN_DATABASE_URL and DATABASE_URL lead to different databases",
	Meaning: "A NOTIFY is heard in its own database only: what is written in one is never heard in the other.",
	Remedy:  "Let both name the same database of the same server.",
}}

// sameDatabase compares what nobody can set: the cluster's identifier and the database's number.
func (d *Doctor) sameDatabase(ctx context.Context, conn *pgx.Conn) (bool, error) {
	const query = `SELECT system_identifier, (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) FROM pg_control_system()`
	var here, there [2]int64
	if err := conn.QueryRow(ctx, query).Scan(&here[0], &here[1]); err != nil {
		return false, err
	}
	err := d.ask(ctx, query, nil, &there[0], &there[1])
	return here == there, err
}

func (d *Doctor) connectListener(ctx context.Context) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(d.o.ListenDatabaseURL)
	if err != nil {
		return nil, errors.New("it is no address of a PostgreSQL database")
	}
	config.RuntimeParams["application_name"] = applicationName
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	return pgx.ConnectConfig(ctx, config)
}

func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // its error says that the connection was not there any more
}

// pooled tells whether the backend behind the connection is lent to others between its transactions. A direct connection has the backend
// that greeted it. Through a proxy others are made to ask for a backend, and get the listener's where transactions are pooled; so the next
// transaction of the listener gets another one.
func (d *Doctor) pooled(ctx context.Context, conn *pgx.Conn) (bool, error) {
	before, err := backend(ctx, conn)
	if err != nil || before == conn.PgConn().PID() {
		return false, err
	}
	for range holders {
		other, err := d.connectListener(ctx)
		if err != nil {
			break // a proxy with few connections to give: what can be seen with those that there are will do
		}
		defer closeConn(ctx, other)
		lent, err := hold(ctx, other)
		if err != nil {
			break
		}
		if lent == before {
			return true, nil
		}
	}
	after, err := backend(ctx, conn)
	return err == nil && after != before, err
}

// holdTime is how long a proxy may take to find a backend for a transaction.
const holdTime = 2 * time.Second

// hold opens a transaction that lasts as long as the connection, and returns its backend.
func hold(ctx context.Context, conn *pgx.Conn) (uint32, error) {
	ctx, cancel := context.WithTimeout(ctx, holdTime)
	defer cancel()
	if _, err := conn.Exec(ctx, "BEGIN READ ONLY"); err != nil {
		return 0, err
	}
	return backend(ctx, conn)
}

func backend(ctx context.Context, conn *pgx.Conn) (uint32, error) {
	var pid int64
	err := conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid)
	return uint32(pid), err
}

// roundTrip rings where writers ring, and waits at the listener.
func (d *Doctor) roundTrip(ctx context.Context, conn *pgx.Conn) ([]Finding, error) {
	payload := fmt.Sprintf("%sdoctor %016x", pingPrefix, rand.Uint64())
	began := time.Now()
	if _, err := d.pool.Exec(ctx, "SELECT pg_notify($1, $2)", channelName, payload); err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, d.limits.hear)
	defer cancel()
	for {
		n, err := conn.WaitForNotification(waiting)
		if err != nil {
			f := notHeard
			f.Err = err
			return []Finding{f}, nil
		}
		if n.Payload == payload {
			return []Finding{{Code: "listen_ok", Title: "a NOTIFY was heard after " + span(time.Since(began))}}, nil
		}
	}
}
