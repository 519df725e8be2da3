package doctor

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// rowsMost is where counting ends.
const rowsMost = 1000

// reference is a foreign key between tables of ours.
type reference struct {
	Child, Parent string
	Columns, Keys []string
	OnDelete      string  // pg_constraint.confdeltype
	Rows          float64 // of the child, as the planner believes
}

// rows looks for rows whose references lead nowhere, or into another organization. Foreign keys and guards refuse them, but not in loads
// under session_replication_role = replica with triggers off, nor do cascades run there.
func (d *Doctor) rows(ctx context.Context) ([]Finding, error) {
	references, err := collect[reference](ctx, d, `
		SELECT k.conrelid::regclass::text, k.confrelid::regclass::text,
		       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(n, nth) JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY nth),
		       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY u(n, nth) JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY nth),
		       k.confdeltype::text, c.reltuples::float8
		FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
		WHERE k.contype = 'f' AND k.conrelid = ANY (ARRAY['users', 'channels', 'chats', 'chat_members', 'messages', 'notifications']::regclass[])
		ORDER BY 1, 2, 3`)
	if err != nil {
		return nil, err
	}
	found, err := d.foreignKeysOff(ctx)
	if err != nil {
		return nil, err
	}
	sampled := false
	for _, r := range references {
		nowhere, elsewhere, err := d.dangling(ctx, r)
		if err != nil {
			return append(found, notChecked("rows", fmt.Errorf("rows of %s: %w", r.Child, err))), nil
		}
		found = append(found, judgeRows(r, nowhere, elsewhere)...)
		sampled = sampled || r.Rows > float64(d.limits.sample)
	}
	quoted, err := d.quotedElsewhere(ctx)
	if err != nil {
		return nil, err
	}
	found = append(found, quoted...)
	if len(found) == 0 {
		f := Finding{Code: "rows_ok", Title: "no row points into another organization, or to what is not there"}
		if sampled {
			f.Title += " (large tables: a sample)"
		}
		found = []Finding{f}
	}
	return found, nil
}

// off is a table with triggers of foreign keys that are disabled: DISABLE TRIGGER ALL does that, as pg_restore --disable-triggers writes it.
type off struct {
	Table    string
	Triggers []string
}

func (d *Doctor) foreignKeysOff(ctx context.Context) ([]Finding, error) {
	all, err := collect[off](ctx, d, `
		SELECT tgrelid::regclass::text, array_agg(quote_ident(tgname) ORDER BY tgname) FROM pg_trigger
		WHERE tgisinternal AND tgenabled = 'D' AND tgrelid = ANY (ARRAY['organizations', 'users', 'channels', 'chats', 'chat_members', 'messages', 'notifications']::regclass[])
		GROUP BY 1 ORDER BY 1`)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	var tables, enable []string
	for _, o := range all {
		tables = append(tables, o.Table)
		for _, trigger := range o.Triggers {
			enable = append(enable, fmt.Sprintf("ALTER TABLE %s ENABLE TRIGGER %s;", o.Table, trigger))
		}
	}
	return []Finding{{
		Code: "foreign_keys_disabled", Level: Broken, Title: "foreign keys are not enforced on " + list(tables),
		Meaning: "Somebody disabled all triggers there, those of foreign keys too: rows may point into another organization, and a deleted chat keeps its messages.",
		Remedy:  "As superuser: " + strings.Join(enable, " "),
	}}, nil
}

// dangling counts rows that refer to nothing, and those whose id is there in another organization.
func (d *Doctor) dangling(ctx context.Context, r reference) (nowhere, elsewhere int, err error) {
	from := r.Child + " c"
	if most := float64(d.limits.sample); r.Rows > most {
		from += fmt.Sprintf(" TABLESAMPLE SYSTEM (%f)", 100*most/r.Rows)
	}
	err = d.ask(ctx, fmt.Sprintf(`SELECT count(*) FILTER (WHERE NOT there), count(*) FILTER (WHERE there) FROM (
		SELECT EXISTS (SELECT FROM %s p WHERE p.id = c.%s) AS there FROM %s WHERE %s LIMIT %d) d`,
		r.Parent, r.id(), from, r.broken("c"), rowsMost), nil, &nowhere, &elsewhere)
	return nowhere, elsewhere, err
}

// id is the column that names a row of the parent.
func (r reference) id() string {
	for i, key := range r.Keys {
		if key == "id" {
			return r.Columns[i]
		}
	}
	return r.Columns[0]
}

// broken is the condition under which a row has no parent: MATCH SIMPLE asks nothing of one with a null.
func (r reference) broken(child string) string {
	var there, same []string
	for i, column := range r.Columns {
		there = append(there, fmt.Sprintf("%s.%s IS NOT NULL", child, column))
		same = append(same, fmt.Sprintf("p.%s = %s.%s", r.Keys[i], child, column))
	}
	return fmt.Sprintf("%s AND NOT EXISTS (SELECT FROM %s p WHERE %s)", strings.Join(there, " AND "), r.Parent, strings.Join(same, " AND "))
}

// mend does what the foreign key would have done when the parent went.
func (r reference) mend() string {
	if r.OnDelete == "n" {
		return fmt.Sprintf("UPDATE %s c SET %s = NULL WHERE %s", r.Child, r.id(), r.broken("c"))
	}
	return fmt.Sprintf("DELETE FROM %s c WHERE %s", r.Child, r.broken("c"))
}

func judgeRows(r reference, nowhere, elsewhere int) []Finding {
	const load = "A load under session_replication_role = replica, or a replica's apply worker, left them: foreign keys do not look there, and cascades do not run."
	var found []Finding
	if elsewhere > 0 {
		found = append(found, Finding{
			Code: "rows_of_another_organization", Level: Broken,
			Title:   fmt.Sprintf("%s of %s into another organization (%s → %s)", atMost(elsewhere), r.Child, r.id(), r.Parent),
			Meaning: load + " People may see a name or an id that is not theirs to see.",
			Remedy:  "Correct them, or do what the foreign key would do:", Command: psql(r.mend()),
		})
	}
	if nowhere > 0 {
		found = append(found, Finding{
			Code: "rows_without_parent", Level: Warning,
			Title:   fmt.Sprintf("%s of %s to %s that are not there (%s)", atMost(nowhere), r.Child, r.Parent, r.id()),
			Meaning: load + " They are seen by nobody, and count nowhere.",
			Remedy:  "Load what is missing, or do what the foreign key would do:", Command: psql(r.mend()),
		})
	}
	return found
}

func atMost(n int) string {
	if n >= rowsMost {
		return fmt.Sprintf("%d rows or more", n) + " point"
	}
	if n == 1 {
		return "1 row points"
	}
	return fmt.Sprintf("%d rows point", n)
}

// quotedElsewhere looks at the one reference that is guarded by a trigger alone.
func (d *Doctor) quotedElsewhere(ctx context.Context) ([]Finding, error) {
	var n int
	err := d.look(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, fmt.Sprintf(`SELECT count(*) FROM (SELECT FROM messages m JOIN messages q ON q.id = m.quoted_message_id
			WHERE m.quoted_message_id IS NOT NULL AND q.organization_id <> m.organization_id LIMIT %d) d`, rowsMost)).Scan(&n)
	})
	if err != nil || n == 0 {
		return nil, err
	}
	return []Finding{{
		Code: "rows_of_another_organization", Level: Broken, Title: fmt.Sprintf("%s of messages into another organization (quoted_message_id)", atMost(n)),
		Meaning: "They were loaded while the guards did not fire. Quotes may show what another organization wrote.",
		Remedy:  "Correct them, or take the quotes away:",
		Command: psql(`UPDATE messages m SET quoted_message_id = NULL, quoted_content = NULL FROM messages q WHERE q.id = m.quoted_message_id AND q.organization_id <> m.organization_id`),
	}}, nil
}

// subscription is a logical replication that writes into this database.
type subscription struct {
	Name    string
	Enabled bool
	Ours    bool // into tables of ours
}

// subscriptions looks for writers that never ring: statement triggers do not fire in apply workers.
func (d *Doctor) subscriptions(ctx context.Context) ([]Finding, error) {
	all, err := collect[subscription](ctx, d, `
		SELECT s.subname::text, s.subenabled, EXISTS (SELECT FROM pg_subscription_rel r WHERE r.srsubid = s.oid AND r.srrelid = ANY (ARRAY[
			to_regclass('public.users'), to_regclass('public.chats'), to_regclass('public.chat_members'), to_regclass('public.messages'), to_regclass('public.notifications')]))
		FROM pg_subscription s WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, s := range all {
		f := Finding{
			Code: "subscription_present", Level: Note, Title: fmt.Sprintf("the subscription %s writes into this database", name(s.Name)),
			Meaning: "It has no table of Roombell's. If it gets one: what apply workers write is not heard.",
		}
		if s.Ours {
			f.Code, f.Level, f.Title = "subscription_does_not_ring", Warning, fmt.Sprintf("the subscription %s writes into tables of Roombell's", name(s.Name))
			f.Meaning = "Statement triggers do not fire in apply workers: what it writes is not heard, not resumed, and not counted in chats."
			f.Remedy = "Write these rows by SQL in this database, or after each load tell clients to fetch anew, and compute the counters of chats anew:"
			f.Command = psql(recompute)
		}
		found = append(found, f)
	}
	if len(found) == 0 {
		found = []Finding{{Code: "subscriptions_ok", Title: "no logical replication writes into this database"}}
	}
	return found, nil
}
