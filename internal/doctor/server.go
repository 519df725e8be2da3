package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

const oldest = 150000 // PostgreSQL 15.0 as server_version_num has it

func (d *Doctor) version(ctx context.Context) ([]Finding, error) {
	var number int
	var name, database, role string
	err := d.ask(ctx, `SELECT current_setting('server_version_num')::integer, current_setting('server_version'), current_database(), current_user::text`, nil,
		&number, &name, &database, &role)
	if err != nil {
		return nil, err
	}
	return []Finding{judgeVersion(number, fmt.Sprintf("PostgreSQL %s, database %s as %s", name, database, role))}, nil
}

func judgeVersion(number int, title string) Finding {
	if number >= oldest {
		return Finding{Code: "version_ok", Title: title}
	}
	return Finding{
		Code: "version_too_old", Level: Broken, Title: title,
		Meaning: "Roombell needs PostgreSQL 15 or newer: its tables cannot be made on this one.",
		Remedy:  "Upgrade the server (pg_upgrade, or dump and restore into a newer one).",
	}
}

// durability looks at what keeps a commit. A cursor says that what was heard was committed for good.
func (d *Doctor) durability(ctx context.Context) ([]Finding, error) {
	var fsync, pages, commit, wal string
	err := d.ask(ctx, `SELECT current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'), current_setting('wal_level')`, nil,
		&fsync, &pages, &commit, &wal)
	if err != nil {
		return nil, err
	}
	return judgeDurability(fsync, pages, commit, wal), nil
}

func judgeDurability(fsync, pages, commit, wal string) []Finding {
	var found []Finding
	for _, s := range []struct{ name, value, code string }{
		{name: "fsync", value: fsync, code: "fsync_off"}, {name: "full_page_writes", value: pages, code: "full_page_writes_off"},
	} {
		if s.value == "off" {
			found = append(found, Finding{
				Code: s.code, Level: Warning, Title: s.name + " is off",
				Meaning: "A crash of the machine may destroy the database, and take back what clients have heard without their being told.",
				Remedy:  "Keep it so for throw-away data only. As superuser: ALTER SYSTEM RESET " + s.name + "; SELECT pg_reload_conf();",
			})
		}
	}
	if commit == "off" {
		found = append(found, Finding{
			Code: "synchronous_commit_off", Level: Note, Title: "synchronous_commit is off",
			Meaning: "Transactions that Roombell records are raised to local, because clients must not hear what a crash takes back: those writers wait for their flush.",
			Remedy:  "Nothing is to be done, unless you counted on writers that do not wait.",
		})
	}
	if wal == "minimal" {
		found = append(found, Finding{
			Code: "wal_level_minimal", Level: Note, Title: "wal_level is minimal",
			Meaning: "Roombell needs no more. There can be no standby and no restore to a point in time.",
			Remedy:  "For either, as superuser: ALTER SYSTEM SET wal_level = replica; then restart PostgreSQL.",
		})
	}
	if len(found) == 0 {
		found = []Finding{{Code: "durability_ok", Title: fmt.Sprintf("commits are flushed (synchronous_commit %s, wal_level %s)", commit, wal)}}
	}
	return found
}

// preset is a roombell.* setting that somebody wrote down for a role or a database.
type preset struct {
	Where string // "DATABASE x", "ROLE y" or "ROLE y IN DATABASE x"
	Text  string // name=value
}

// defaults looks for settings that are meant for one transaction and were given to all of them.
func (d *Doctor) defaults(ctx context.Context) ([]Finding, error) {
	presets, err := collect[preset](ctx, d, `
		SELECT CASE WHEN s.setrole = 0 THEN format('DATABASE %I', b.datname)
		            WHEN s.setdatabase = 0 THEN format('ROLE %I', r.rolname)
		            ELSE format('ROLE %I IN DATABASE %I', r.rolname, b.datname) END, c.text
		FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) c(text)
		LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database b ON b.oid = s.setdatabase
		WHERE (s.setdatabase = 0 OR b.datname = current_database()) AND c.text ~* '^roombell\.(notify|two_phase)=' ORDER BY 1, 2`)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, p := range presets {
		found = append(found, judgePreset(p)...)
	}
	if len(found) == 0 {
		found = []Finding{{Code: "defaults_ok", Title: "no role and no database is silenced by a setting"}}
	}
	return found, nil
}

func judgePreset(p preset) []Finding {
	name, value, _ := strings.Cut(strings.ToLower(p.Text), "=")
	f := Finding{Level: Warning, Title: fmt.Sprintf("%s is set for %s", strings.ToLower(p.Text), p.Where),
		Remedy: fmt.Sprintf("As superuser, or as whoever set it: ALTER %s RESET %s;", p.Where, name)}
	switch {
	case name == "roombell.notify" && (value == "off" || value == "summary"):
		f.Code, f.Meaning = "notify_off_by_default", "Nobody hears the single events of these writers."
	case name == "roombell.two_phase" && slices.Contains([]string{"on", "true", "yes", "1"}, value):
		f.Code, f.Meaning = "two_phase_by_default", "These writers never ring: what they write comes up to a second late."
	default:
		return nil
	}
	return []Finding{f}
}

// owned is a thing of ours whose owner the role is not.
type owned struct{ Thing, Owner string }

// role looks at what the database's role is and owns.
func (d *Doctor) role(ctx context.Context) ([]Finding, error) {
	var role, owner, database string
	var superuser, ownsDatabase bool
	err := d.ask(ctx, `SELECT current_user::text, rolsuper, pg_has_role(datdba, 'USAGE'), pg_get_userbyid(datdba)::text, quote_ident(datname)
		FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()`, nil, &role, &superuser, &ownsDatabase, &owner, &database)
	if err != nil {
		return nil, err
	}
	if superuser {
		return []Finding{{
			Code: "role_superuser", Level: Warning, Title: fmt.Sprintf("the role %s is a superuser", role),
			Meaning: "Roombell needs none of it, and its triggers run with the rights of this role in every writer's transaction.",
			Remedy:  "Make a role that owns the database and is no superuser, let it own the tables, and use it in DATABASE_URL.",
		}}, nil
	}
	foreign, err := d.foreign(ctx)
	if err != nil {
		return nil, err
	}
	var found []Finding
	if len(foreign) > 0 {
		found = append(found, Finding{
			Code: "role_not_owner", Level: Broken, Title: fmt.Sprintf("the role %s does not own %s", role, list(things(foreign))),
			Meaning: "The event log cannot be emptied when its retention has passed, and no migration can be applied.",
			Remedy:  "As superuser: " + alterOwners(foreign, role),
		})
	}
	if !ownsDatabase {
		found = append(found, Finding{
			Code: "role_not_database_owner", Level: Warning, Title: fmt.Sprintf("the role %s does not own the database (%s does)", role, owner),
			Meaning: "A migration that makes a schema, or adds what only an owner may, will be refused.",
			Remedy:  fmt.Sprintf("As superuser: ALTER DATABASE %s OWNER TO %s;", database, quoteIdentifier(role)),
		})
	}
	if len(found) == 0 {
		found = []Finding{{Code: "role_ok", Title: fmt.Sprintf("the role %s owns the database and is no superuser", role)}}
	}
	return found, nil
}

// foreign are the tables, sequences and functions of ours that somebody else owns.
func (d *Doctor) foreign(ctx context.Context) ([]owned, error) {
	return collect[owned](ctx, d, `
		SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' WHEN 'c' THEN 'TYPE ' ELSE 'TABLE ' END || c.oid::regclass, pg_get_userbyid(c.relowner)::text
		FROM pg_class c WHERE NOT pg_has_role(c.relowner, 'USAGE') AND c.relkind IN ('r', 'p', 'S', 'c')
		AND (c.relnamespace = to_regnamespace('roombell') OR c.relnamespace = 'public'::regnamespace AND to_regnamespace('roombell') IS NOT NULL
		     AND c.relname ~ '^(organizations|users|channels|chats|chat_members|messages|notifications|roombell_settings|roombell_migrations|event_log(_[0-9]|_state|_trim|_timelines|_seq)?)$')
		UNION ALL
		SELECT 'FUNCTION ' || p.oid::regprocedure, pg_get_userbyid(p.proowner)::text
		FROM pg_proc p WHERE NOT pg_has_role(p.proowner, 'USAGE') AND p.pronamespace = to_regnamespace('roombell')
		UNION ALL
		SELECT 'SCHEMA ' || quote_ident(nspname), pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = 'roombell' AND NOT pg_has_role(nspowner, 'USAGE')
		ORDER BY 1`)
}

func things(all []owned) []string {
	var names []string
	for _, o := range all {
		_, name, _ := strings.Cut(o.Thing, " ")
		names = append(names, name)
	}
	return names
}

func alterOwners(all []owned, role string) string {
	var statements []string
	for _, o := range all {
		statements = append(statements, fmt.Sprintf("ALTER %s OWNER TO %s;", o.Thing, quoteIdentifier(role)))
	}
	return strings.Join(statements, " ")
}
