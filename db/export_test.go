package db

import (
	"context"
	"io/fs"
	"log/slog"
)

// ApplyTriggers is what Migrate does for triggers, with files and a version of the test's.
func ApplyTriggers(ctx context.Context, url string, log *slog.Logger, files fs.FS, version int) error {
	m, err := connectMigrator(ctx, url, log)
	if err != nil {
		return err
	}
	defer m.close(ctx)
	return m.locked(ctx, func(ctx context.Context) error { return m.applyTriggers(ctx, files, version) })
}

// TriggerTables are the tables that are locked while triggers are applied.
func TriggerTables() []string { return triggerTables[:] }

// MigrationLock are the two halves of the advisory lock.
func MigrationLock() (class, object int) { return lockClass, lockMigrate }

// TriggersInForce are the triggers that the files define, each as table.trigger:A or table.trigger:R.
func TriggersInForce(files fs.FS) ([]string, error) {
	scripts, err := readScripts(files)
	return definitionsOf(scripts).triggers, err
}
