package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// Follow makes s a hot standby of primary, whatever it was before: its data are replaced by a copy of primary's, which may be under load
// meanwhile, and it streams what comes after. It returns when s takes connections, at the address that it had. Both are throw-away servers,
// with the same settings; primary needs a wal_keep_size that spans the copying.
func (s *Server) Follow(ctx context.Context, primary *Server) error {
	if !s.temporary() || !primary.temporary() {
		return errors.New("only throw-away servers follow one another")
	}
	if err := s.current().stop(ctx, syscall.SIGQUIT); err != nil {
		return fmt.Errorf("stop the server that is to follow: %w", err)
	}
	if err := os.RemoveAll(s.data); err != nil {
		return err
	}
	label, err := primary.copyRunning(ctx, s.data, s.account)
	if err != nil {
		return fmt.Errorf("copy a running server: %w", err)
	}
	config := "primary_conninfo = 'host=" + primary.data + " port=" + fmt.Sprint(primary.access.Port) + " user=" + admin + "'\n"
	for name, content := range map[string]string{"backup_label": label, "standby.signal": "", "postgresql.auto.conf": config} {
		if err := s.putFile(name, content); err != nil {
			return err
		}
	}
	return s.Restart(ctx)
}

// SharedURL is the address of whichever of the servers is the primary.
func SharedURL(database string, servers ...*Server) string {
	var hosts, ports []string
	for _, s := range servers {
		hosts = append(hosts, s.data)
		ports = append(ports, fmt.Sprint(s.access.Port))
	}
	query := url.Values{
		"sslmode": {"disable"}, "host": {strings.Join(hosts, ",")}, "port": {strings.Join(ports, ",")}, "target_session_attrs": {"read-write"},
	}
	return (&url.URL{Scheme: "postgres", User: url.User(Name), Path: "/" + database, RawQuery: query.Encode()}).String()
}

// putFile writes a file of the data folder, in place of one that is there.
func (s *Server) putFile(name, content string) error {
	path := filepath.Join(s.data, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return err
	}
	return s.account.own(path)
}

// copyRunning copies the data folder as pg_basebackup does, which not every installation has, and returns the backup's label.
func (s *Server) copyRunning(ctx context.Context, to string, a account) (label string, err error) {
	conn, err := pgx.Connect(ctx, s.AdminURL(admin))
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `SELECT pg_backup_start('standby', true)`); err != nil {
		return "", err
	}
	if err := copyBackup(s.data, to, a); err != nil {
		return "", err
	}
	err = conn.QueryRow(ctx, `SELECT labelfile FROM pg_backup_stop(false)`).Scan(&label)
	return label, err
}

// emptied are the folders whose content a backup leaves out (PostgreSQL's documentation, "Backing Up the Data Directory"); of pg_wal, what
// is missing is streamed.
var emptied = []string{"pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"}

// copyBackup is copyTree for a folder that changes meanwhile.
func copyBackup(from, to string, a account) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(from, path)
		if err != nil || leftOut(inside, entry) {
			return err
		}
		target := filepath.Join(to, inside)
		if !entry.IsDir() {
			err = copyFile(path, target, 0o600)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return errors.Join(err, a.own(target))
		}
		if err := errors.Join(os.Mkdir(target, 0o700), a.own(target)); err != nil {
			return err
		}
		if !slices.Contains(emptied, inside) {
			return nil
		}
		if inside == "pg_wal" {
			archive := filepath.Join(target, "archive_status")
			if err := errors.Join(os.Mkdir(archive, 0o700), a.own(archive)); err != nil {
				return err
			}
		}
		return fs.SkipDir
	})
}

// leftOut are sockets, and the files of the running process.
func leftOut(inside string, entry fs.DirEntry) bool {
	name := filepath.Base(inside)
	return !entry.IsDir() && (!entry.Type().IsRegular() || strings.HasPrefix(name, "postmaster.") || strings.HasPrefix(name, ".s.PGSQL.") ||
		strings.HasPrefix(name, "pgsql_tmp") || strings.HasPrefix(name, "pg_internal.init"))
}
