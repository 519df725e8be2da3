package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"roombell/internal/bench"
)

type benchCmd struct {
	URL      string        `name:"url" env:"ROOMBELL_URL" default:"http://127.0.0.1:3000" help:"Where the service is."`
	Clients  int           `env:"ROOMBELL_CLIENTS" default:"50" help:"How many clients listen."`
	Rates    []int         `env:"ROOMBELL_RATES" default:"10,100" placeholder:"N" help:"Rows a second, one rate after the other."`
	Duration time.Duration `env:"ROOMBELL_DURATION" default:"5s" help:"How long each rate is held."`
	JSON     bool          `name:"json" env:"ROOMBELL_JSON" help:"Print the report as JSON."`
}

// Run measures this installation end to end, in organizations that it makes and deletes again. It fails when an event
// was lost or came twice.
func (c *benchCmd) Run(ctx context.Context, p *program) error {
	if c.Clients < 2 || c.Clients > 10_000 {
		return badUsage("--clients (ROOMBELL_CLIENTS) must be between 2 and 10000")
	}
	for _, rate := range c.Rates {
		if rate < 1 || rate > 100_000 {
			return badUsage("--rates (ROOMBELL_RATES) must be between 1 and 100000")
		}
	}
	if c.Duration < time.Second || c.Duration > time.Hour {
		return badUsage("--duration (ROOMBELL_DURATION) must be between 1s and 1h")
	}
	if err := p.settings.needDatabase(); err != nil {
		return err
	}
	issuer, err := p.issuer()
	if err != nil {
		return err
	}
	report, err := bench.Run(ctx, bench.Options{
		DatabaseURL: string(p.settings.DatabaseURL), URL: c.URL, Tokens: issuer,
		Clients: c.Clients, Rates: c.Rates, Duration: c.Duration, Logger: p.logger(),
	})
	if report == nil {
		return err
	}
	// A run that lost something is shown, and then fails.
	if c.JSON {
		encoder := json.NewEncoder(p.stdout)
		encoder.SetIndent("", "  ")
		return errors.Join(encoder.Encode(report), err)
	}
	return errors.Join(report.WriteTable(p.stdout), err)
}
