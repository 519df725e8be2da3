package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"roombell/db"
	"roombell/internal/auth"
)

type adminCmd struct {
	CreateOrganization createOrganizationCmd `cmd:"" help:"Create an organization and print its id."`
	CreateUser         createUserCmd         `cmd:"" help:"Create a user and print its id; the password comes from standard input."`
	SetPassword        setPasswordCmd        `cmd:"" help:"Give a user a new password, from standard input."`
	Forget             forgetCmd             `cmd:"" help:"Erase a chat, a user or an organization, in the tables and in the event log."`
}

// withPool is what the admin's commands share.
func (p *program) withPool(ctx context.Context, f func(pool *pgxpool.Pool) error) error {
	if err := p.settings.needDatabase(); err != nil {
		return err
	}
	pool, err := p.settings.openPool(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	return f(pool)
}

type createOrganizationCmd struct {
	Name string `env:"ROOMBELL_NAME" required:"" placeholder:"NAME" help:"Its name."`
}

func (c *createOrganizationCmd) Run(ctx context.Context, p *program) error {
	name := strings.TrimSpace(c.Name)
	if name == "" {
		return badUsage("--name (ROOMBELL_NAME) must not be empty")
	}
	return p.withPool(ctx, func(pool *pgxpool.Pool) error {
		id, err := db.New(pool).CreateOrganization(ctx, name)
		if err != nil {
			return fmt.Errorf("create organization: %w", err)
		}
		_, err = fmt.Fprintln(p.stdout, id)
		return err
	})
}

type createUserCmd struct {
	Organization int64  `env:"ROOMBELL_ORGANIZATION" required:"" placeholder:"ID" help:"The organization's id."`
	Email        string `env:"ROOMBELL_EMAIL" required:"" placeholder:"ADDRESS" help:"The address to log in with; unique, in any case of letters."`
	Name         string `env:"ROOMBELL_NAME" placeholder:"NAME" help:"The name that others see."`
	Role         string `env:"ROOMBELL_ROLE" default:"employee" enum:"employee,manager,admin" help:"employee, manager or admin."`
	NoPassword   bool   `env:"ROOMBELL_NO_PASSWORD" help:"Without a password: for who comes with an identity provider's token."`
}

func (c *createUserCmd) Run(ctx context.Context, p *program) error {
	email := strings.TrimSpace(c.Email)
	if at := strings.LastIndexByte(email, '@'); at < 1 || at == len(email)-1 || strings.ContainsAny(email, " \t\r\n") {
		return badUsage("--email (ROOMBELL_EMAIL) must look like name@example.com")
	}
	var hash *string
	if !c.NoPassword {
		h, err := p.readPassword()
		if err != nil {
			return err
		}
		hash = &h
	}
	return p.withPool(ctx, func(pool *pgxpool.Pool) error {
		id, err := db.New(pool).CreateUser(ctx, db.CreateUserParams{OrganizationID: c.Organization, Email: email, Name: c.Name, Role: c.Role, PasswordHash: hash})
		switch {
		case db.IsUnique(err, "users_email"):
			return fmt.Errorf("there is a user %s already", email)
		case db.IsForeignKey(err, ""):
			return fmt.Errorf("there is no organization %d", c.Organization)
		case err != nil:
			return fmt.Errorf("create user: %w", err)
		}
		_, err = fmt.Fprintln(p.stdout, id)
		return err
	})
}

type setPasswordCmd struct {
	Email string `env:"ROOMBELL_EMAIL" required:"" placeholder:"ADDRESS" help:"The user's address."`
}

func (c *setPasswordCmd) Run(ctx context.Context, p *program) error {
	hash, err := p.readPassword()
	if err != nil {
		return err
	}
	return p.withPool(ctx, func(pool *pgxpool.Pool) error {
		queries := db.New(pool)
		user, err := queries.GetUserByEmail(ctx, strings.TrimSpace(c.Email))
		if db.IsNotFound(err) {
			return fmt.Errorf("there is no user %s", c.Email)
		}
		if err != nil {
			return fmt.Errorf("read user: %w", err)
		}
		changed, err := queries.SetPassword(ctx, &hash, user.ID)
		if err == nil && changed == 0 {
			err = errors.New("the user is gone")
		}
		if err != nil {
			return fmt.Errorf("set password: %w", err)
		}
		_, err = fmt.Fprintf(p.stdout, "the password of user %d is changed\n", user.ID)
		return err
	})
}

// readPassword reads a password from standard input and returns its hash.
func (p *program) readPassword() (string, error) {
	password, err := p.readLine("Password: ")
	if err != nil {
		return "", err
	}
	hash, err := auth.HashPassword(password)
	if errors.Is(err, auth.ErrPasswordLength) {
		return "", usageError{fmt.Errorf("the password on standard input will not do: %w", err)}
	}
	return hash, err
}
