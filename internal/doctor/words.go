package doctor

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// psql is a command that runs SQL in the installation's database.
func psql(statements string) string {
	return `psql "$DATABASE_URL" -c ` + shellQuote(statements)
}

// shellQuote makes one word of s for a POSIX shell.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// sqlQuote makes a literal of s; standard_conforming_strings is Postgres's default.
func sqlQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// quoteIdentifier makes a name of s, quoted where it must be.
func quoteIdentifier(s string) string {
	if plain.MatchString(s) {
		return s
	}
	return pgx.Identifier{s}.Sanitize()
}

// plain is a name that needs no quotes; a keyword that passes is the reader's to quote.
var plain = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)

// count is "1 trigger is" or "3 triggers are".
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

const listed = 8

// list names the first few of many.
func list(names []string) string {
	if len(names) > listed {
		return strings.Join(names[:listed], ", ") + fmt.Sprintf(" and %d more", len(names)-listed)
	}
	return strings.Join(names, ", ")
}

// span is a duration for people.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 2*time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// sentence begins with a capital and ends with a stop.
func sentence(s string) string {
	if s == "" {
		return s
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if strings.HasSuffix(s, ".") {
		return s
	}
	return s + "."
}

// secrets are what an address holds: pgx hides them in its own errors, and this is for what others say.
var secrets = regexp.MustCompile(`(?i)(password=)('[^']*'|\S+)|(://[^:/@\s]+:)[^@\s]+(@)`)

// clean is an error in one line, without passwords.
func clean(err error) string {
	if err == nil {
		return ""
	}
	line := strings.Join(strings.Fields(err.Error()), " ")
	return secrets.ReplaceAllString(line, "${1}${3}…${4}")
}

// name is what a stranger called something: short, and nothing that speaks to a terminal.
func name(s string) string {
	if r := []rune(s); len(r) > 40 {
		s = string(r[:40]) + "…"
	}
	return strconv.Quote(s)
}
