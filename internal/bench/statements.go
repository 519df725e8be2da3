package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// statementLog counts what a server asks Postgres, from Postgres' own log: pg_stat_statements is not everywhere.
type statementLog struct {
	file *os.File
}

// linePrefix opens the lines of the log: process and application.
const linePrefix = "%p|%a|"

// openStatementLog has Postgres write down every statement of the owner's new connections to the database.
func (l *Lab) openStatementLog(ctx context.Context, d *labDatabase) (*statementLog, error) {
	admin, err := pgx.Connect(ctx, l.options.AdminURL(d.name))
	if err != nil {
		return nil, err
	}
	defer admin.Close(context.WithoutCancel(ctx))
	role := fmt.Sprintf("ALTER ROLE %s IN DATABASE %s SET ", pgx.Identifier{l.options.Owner}.Sanitize(), pgx.Identifier{d.name}.Sanitize())
	for _, sql := range []string{
		"ALTER SYSTEM SET log_line_prefix = '" + linePrefix + "'", "SELECT pg_reload_conf()",
		role + "log_statement = 'all'", role + "log_parameter_max_length = 0",
	} {
		if _, err := admin.Exec(ctx, sql); err != nil {
			return nil, fmt.Errorf("have statements logged: %w", err)
		}
	}
	file, err := os.Open(l.options.Log)
	if err != nil {
		return nil, err
	}
	return &statementLog{file}, nil
}

// close has Postgres write down no more.
func (s *statementLog) close(ctx context.Context, l *Lab, d *labDatabase) error {
	admin, err := pgx.Connect(ctx, l.options.AdminURL(d.name))
	if err != nil {
		return errors.Join(err, s.file.Close())
	}
	defer admin.Close(context.WithoutCancel(ctx))
	_, err = admin.Exec(ctx, fmt.Sprintf("ALTER ROLE %s IN DATABASE %s RESET ALL", pgx.Identifier{l.options.Owner}.Sanitize(), pgx.Identifier{d.name}.Sanitize()))
	return errors.Join(err, s.file.Close())
}

// mark is a place in the log.
func (s *statementLog) mark() (int64, error) { return s.file.Seek(0, io.SeekEnd) }

// since counts what was written behind the mark.
func (s *statementLog) since(mark int64) (statements, error) {
	if _, err := s.file.Seek(mark, io.SeekStart); err != nil {
		return nil, err
	}
	return countStatements(s.file)
}

// asked is what a statement is for.
type asked string

const (
	askedTail     asked = "the tail"
	askedLog      asked = "reads of the log"
	askedRights   asked = "users and rights"
	askedCounters asked = "counters of chats"
	askedOther    asked = "others"
)

// statements are how many there were of each.
type statements map[asked]int

// of returns how many statements were for one of these.
func (s statements) of(all ...asked) int {
	n := 0
	for _, a := range all {
		n += s[a]
	}
	return n
}

func (s statements) String() string {
	var parts []string
	for _, a := range []asked{askedLog, askedRights, askedTail, askedCounters, askedOther} {
		parts = append(parts, fmt.Sprintf("%s %d", a, s[a]))
	}
	return strings.Join(parts, ", ")
}

// countStatements reads a log with our prefix.
func countStatements(log io.Reader) (statements, error) {
	counted, transactions := statements{}, map[string]*transaction{}
	lines := bufio.NewReaderSize(log, 64<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) { // a long statement: its beginning says what it is
			line, err = slices.Clone(line), skipLine(lines)
		}
		if pid, application, sql, ok := parseStatement(line); ok {
			t := transactions[pid]
			if t == nil {
				t = &transaction{last: askedOther}
				transactions[pid] = t
			}
			t.count(counted, application, sql)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	for _, t := range transactions {
		counted[askedOther] += t.opened
	}
	return counted, nil
}

func skipLine(lines *bufio.Reader) error {
	for {
		if _, err := lines.ReadSlice('\n'); !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// parseStatement reads a line like `4711|roombell|LOG:  execute stmtcache_1: SELECT …` or `…|LOG:  statement: begin`.
func parseStatement(line []byte) (pid, application, sql string, ok bool) {
	parts := bytes.SplitN(line, []byte{'|'}, 3)
	if len(parts) < 3 {
		return "", "", "", false
	}
	text, isLog := bytes.CutPrefix(parts[2], []byte("LOG:  "))
	kind, statement, found := bytes.Cut(text, []byte(": "))
	if !isLog || !found || string(kind) != "statement" && !bytes.HasPrefix(kind, []byte("execute ")) {
		return "", "", "", false
	}
	return string(parts[0]), string(parts[1]), strings.TrimSpace(string(statement)), true
}

// transaction counts what opens a transaction as that which follows, and what ends it as that which was before.
type transaction struct {
	opened int
	last   asked
}

func (t *transaction) count(counted statements, application, sql string) {
	word, _, _ := strings.Cut(strings.ToLower(sql), " ")
	switch {
	case strings.HasPrefix(application, "roombell listen"):
		counted[askedTail]++
	case word == "begin" || word == "set":
		t.opened++
	case word == "commit" || word == "rollback":
		counted[t.last]++
	default:
		t.last = purpose(sql)
		counted[t.last] += 1 + t.opened
		t.opened = 0
	}
}

// purpose tells by the name that sqlc puts in front, or by what only one statement has.
func purpose(sql string) asked {
	name, named := strings.CutPrefix(sql, "-- name: ")
	name, _, _ = strings.Cut(name, " ")
	switch {
	case named && slices.Contains([]string{"LockChats", "RecomputeCounters", "FindDriftedChats", "ListChatIDs", "LoadProjected", "StoreProjected"}, name):
		return askedCounters
	case named:
		return askedRights
	case strings.Contains(sql, "pg_current_snapshot") || strings.Contains(sql, "roombell.timeline") || strings.Contains(sql, "event_log"):
		return askedLog
	}
	return askedOther
}
