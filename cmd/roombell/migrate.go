package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"roombell/db"
)

type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" help:"Bring tables and triggers to this binary's version; safe when several processes start at once."`
	Status migrateStatusCmd `cmd:"" help:"Say what the database has."`
	Down   migrateDownCmd   `cmd:"" help:"Take the last migration back, and all triggers."`
}

type migrateUpCmd struct{}

func (migrateUpCmd) Run(ctx context.Context, p *program) error {
	if err := p.settings.needDatabase(); err != nil {
		return err
	}
	if err := migrate(ctx, &p.settings, p.logger()); err != nil {
		return err
	}
	v, err := db.Status(ctx, p.settings.listenURL())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "up to date: %d migrations, triggers version %d\n", len(v.Migrations)+len(v.Newer), v.Triggers)
	return err
}

// migrate applies what is missing, and the retention when somebody chose one.
func migrate(ctx context.Context, s *settings, log *slog.Logger) error {
	var set []db.Setting
	if s.retentionIsSet() {
		set = append(set, db.WithRetention(s.Retention))
	}
	return db.Migrate(ctx, s.listenURL(), log, set...)
}

type migrateStatusCmd struct{}

func (migrateStatusCmd) Run(ctx context.Context, p *program) error {
	if err := p.settings.needDatabase(); err != nil {
		return err
	}
	v, err := db.Status(ctx, p.settings.listenURL())
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	for _, m := range v.Migrations {
		applied := "pending"
		if !m.AppliedAt.IsZero() {
			applied = m.AppliedAt.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\n", m.Name, applied)
	}
	for _, version := range v.Newer {
		fmt.Fprintf(w, "%d\tapplied by a newer version\n", version)
	}
	fmt.Fprintf(w, "triggers\tversion %d, this binary has %d\n", v.Triggers, v.BinaryTriggers)
	return w.Flush()
}

type migrateDownCmd struct {
	Yes bool `env:"ROOMBELL_YES" help:"Do not ask."`
}

func (c *migrateDownCmd) Run(ctx context.Context, p *program) error {
	if err := p.settings.needDatabase(); err != nil {
		return err
	}
	if !c.Yes {
		fmt.Fprint(p.stderr, "This drops tables with what is in them. Take the last migration back? [y/N] ")
		if !p.agreed() {
			return errors.New("nothing was changed")
		}
	}
	if err := db.Down(ctx, p.settings.listenURL(), p.logger()); err != nil {
		return err
	}
	_, err := fmt.Fprintln(p.stdout, "taken back: run migrate up to record events again")
	return err
}

// agreed reads one line and tells whether it is a yes.
func (p *program) agreed() bool {
	line, _ := bufio.NewReader(p.stdin).ReadString('\n')
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes"
}
