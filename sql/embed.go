// Package sql holds the tables: goose migrations, embedded so that the binary can make its own database, and the queries that sqlc turns
// into package db. Functions and triggers are not here but in package triggers, because they are replaced and never migrated.
package sql

import "embed"

// Migrations holds migrations/*.sql, named NNNNN_what.sql. One that is on main is never edited.
//
//go:embed migrations/*.sql
var Migrations embed.FS
