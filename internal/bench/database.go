package bench

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// organization is a tenant that the bench has made, and what is in it.
type organization struct {
	id    int64
	users []int64
	chats []int64
}

// seed makes organizations with users and chats, silently.
func seed(ctx context.Context, conn *pgx.Conn, name string, organizations, users, chats int) ([]organization, error) {
	var made []organization
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL roombell.notify = 'off'"); err != nil {
			return err
		}
		for range organizations {
			o, err := seedOrganization(ctx, tx, name, users, chats)
			if err != nil {
				return err
			}
			made = append(made, o)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("make bench organizations: %w", err)
	}
	return made, nil
}

func seedOrganization(ctx context.Context, tx pgx.Tx, name string, users, chats int) (o organization, err error) {
	if err := tx.QueryRow(ctx, "INSERT INTO organizations (name) VALUES ($1) RETURNING id", name).Scan(&o.id); err != nil {
		return o, err
	}
	// .invalid is nobody's domain (RFC 2606 §2).
	if o.users, err = ids(ctx, tx, `INSERT INTO users (organization_id, email, name)
		SELECT $1::bigint, format('%s.%s.%s@bench.invalid', $1, n, md5(random()::text)), 'bench ' || n FROM generate_series(1, $2::int) n RETURNING id`, o.id, users); err != nil {
		return o, err
	}
	o.chats, err = ids(ctx, tx, `INSERT INTO chats (organization_id, name)
		SELECT $1::bigint, 'bench ' || n FROM generate_series(1, $2::int) n RETURNING id`, o.id, chats)
	return o, err
}

func ids(ctx context.Context, tx pgx.Tx, sql string, args ...any) ([]int64, error) {
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[int64])
}

// forget deletes organizations that seed has made, with all that is in them, silently.
func forget(ctx context.Context, conn *pgx.Conn, organizations []organization) error {
	var list []int64
	for _, o := range organizations {
		list = append(list, o.id)
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL roombell.notify = 'off'"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DELETE FROM organizations WHERE id = ANY($1)", list)
		return err
	})
	if err != nil {
		return fmt.Errorf("delete bench organizations: %w", err)
	}
	return nil
}

// dropTriggers takes every trigger of the business tables away. Foreign keys, which are constraints, stay.
func dropTriggers(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, `DO $$
		DECLARE t record;
		BEGIN
			FOR t IN SELECT tgname, tgrelid::regclass AS rel FROM pg_trigger WHERE NOT tgisinternal AND tgparentid = 0 LOOP
				EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, t.rel);
			END LOOP;
		END $$`)
	if err != nil {
		return fmt.Errorf("drop triggers: %w", err)
	}
	return nil
}
