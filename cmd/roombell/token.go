package main

import (
	"context"
	"fmt"
	"time"

	"roombell/db"
	"roombell/internal/auth"
)

type tokenCmd struct {
	User int64         `env:"ROOMBELL_USER" required:"" placeholder:"ID" help:"The user's id."`
	TTL  time.Duration `name:"ttl" env:"ROOMBELL_TTL" default:"1h" help:"How long the token lives."`
}

// Run prints a token that the service accepts, and nothing else.
func (c *tokenCmd) Run(ctx context.Context, p *program) error {
	if c.TTL < time.Second || c.TTL > 365*24*time.Hour {
		return badUsage("--ttl (ROOMBELL_TTL) must be between 1s and 8760h")
	}
	issuer, err := p.issuer()
	if err != nil {
		return err
	}
	if err := p.settings.needDatabase(); err != nil {
		return err
	}
	pool, err := p.settings.openPool(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	user, err := db.New(pool).GetUser(ctx, c.User)
	if db.IsNotFound(err) {
		return fmt.Errorf("there is no user %d", c.User)
	}
	if err != nil {
		return fmt.Errorf("read user %d: %w", c.User, err)
	}
	if !user.Active {
		return fmt.Errorf("user %d is disabled", c.User)
	}
	token, _, err := issuer.Issue(auth.Identity{UserID: user.ID, OrganizationID: user.OrganizationID, Email: user.Email, Role: user.Role,
		Generation: user.TokenGeneration}, c.TTL)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.stdout, token)
	return err
}

// issuer signs with the service's own secret.
func (p *program) issuer() (*auth.Issuer, error) {
	if p.settings.JWTSecret == "" {
		return nil, badUsage("ROOMBELL_JWT_SECRET is not set: tokens are signed with it")
	}
	return auth.NewIssuer([]byte(p.settings.JWTSecret), p.settings.claims(), nil)
}
