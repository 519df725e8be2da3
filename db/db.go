// Package db is the way to PostgreSQL: the pool, transactions with their retries, the meaning of errors, migrations with triggers, and the
// queries of sql/queries as sqlc wrote them down (*.sql.go, models.go). Everybody who stores or reads calls it; it calls nobody of ours.
//
// It promises that Open never waits for a server, that InTx runs its function again when Postgres asks for it, and that Migrate is
// safe beside traffic, beside other processes and beside newer versions of itself.
package db

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// What a connection gets when its URL does not say otherwise.
const (
	connectTimeout  = 5 * time.Second
	idleLife        = 5 * time.Minute
	connectionLife  = 30 * time.Minute
	applicationName = "roombell"
)

// Option changes a pool before it is made.
type Option func(*pgxpool.Config)

// ThroughProxy is for a pool behind a proxy that gives each transaction another connection (PgBouncer's transaction pooling): statements are
// not prepared by name, because the next transaction's connection would not know them.
func ThroughProxy(cfg *pgxpool.Config) { cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec }

// Open returns a pool for a postgres:// URL or a keyword string. It does not connect: a server that is away shows at the first query.
// Several hosts and target_session_attrs work as in libpq, and pool_max_conns and its sisters as in pgxpool. The caller closes the pool.
func Open(ctx context.Context, url string, options ...Option) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database address: %w", err)
	}
	tune(&cfg.ConnConfig.Config.RuntimeParams)
	tuneNetwork(cfg.ConnConfig)
	if !strings.Contains(url, "pool_max_conns") {
		cfg.MaxConns = int32(max(10, 2*runtime.NumCPU()))
	}
	cfg.MaxConnIdleTime = idleLife
	cfg.MaxConnLifetime = connectionLife
	cfg.MaxConnLifetimeJitter = connectionLife / 10
	for _, option := range options {
		option(cfg)
	}

	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("database pool: %w", err)
	}
	return pool, nil
}

// connConfig is the address of one connection outside the pool.
func connConfig(url string) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database address: %w", err)
	}
	tune(&cfg.Config.RuntimeParams)
	tuneNetwork(cfg)
	return cfg, nil
}

func tune(params *map[string]string) {
	if *params == nil {
		*params = map[string]string{}
	}
	if (*params)["application_name"] == "" {
		(*params)["application_name"] = applicationName
	}
}

func tuneNetwork(cfg *pgx.ConnConfig) {
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	// A server that vanished without a FIN is noticed in 11 seconds, not in two hours.
	dialer := &net.Dialer{
		Timeout:         cfg.ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3},
	}
	cfg.DialFunc = dialer.DialContext
}
