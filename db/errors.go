package db

import (
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Codes of PostgreSQL, appendix A "Error Codes", on which somebody of ours decides.
const (
	codeForeignKeyViolation  = "23503"
	codeUniqueViolation      = "23505"
	codeCheckViolation       = "23514"
	codeReadOnly             = "25006"
	codeSerializationFailure = "40001"
	codeDeadlockDetected     = "40P01"
	codeUndefinedTable       = "42P01"
	codeInvalidSchema        = "3F000"
	codeLockNotAvailable     = "55P03"
)

// IsNotFound says that a query for one row found none.
func IsNotFound(err error) bool { return errors.Is(err, pgx.ErrNoRows) }

// IsUnique says that a unique constraint or index refused the row; an empty constraint means any.
func IsUnique(err error, constraint string) bool {
	return violates(err, codeUniqueViolation, constraint)
}

// IsForeignKey says that a foreign key refused the write; an empty constraint means any.
func IsForeignKey(err error, constraint string) bool {
	return violates(err, codeForeignKeyViolation, constraint)
}

// IsCheck says that a CHECK constraint refused the row; an empty constraint means any.
func IsCheck(err error, constraint string) bool {
	return violates(err, codeCheckViolation, constraint)
}

// IsRetryable says that the same transaction may succeed when it runs again from its start.
func IsRetryable(err error) bool {
	code := Code(err)
	return code == codeSerializationFailure || code == codeDeadlockDetected
}

// IsDeadlock says that the transaction was the one given up to end a deadlock.
func IsDeadlock(err error) bool { return Code(err) == codeDeadlockDetected }

// IsLocked says that a lock did not come within lock_timeout, or at once where NOWAIT asked for that.
func IsLocked(err error) bool { return Code(err) == codeLockNotAvailable }

// IsReadOnly says that the server takes no writes: a standby, usually.
func IsReadOnly(err error) bool { return Code(err) == codeReadOnly }

// IsMissing says that a table or schema is not there: the database was never migrated.
func IsMissing(err error) bool {
	code := Code(err)
	return code == codeUndefinedTable || code == codeInvalidSchema
}

// IsUnavailable says that no answer came from a working server: it cannot be reached, is starting or stopping, has no connection left, or the
// connection broke on the way. Whether a write that ended like this was committed is not known.
func IsUnavailable(err error) bool {
	if code := Code(err); code != "" {
		// Class 08 connection exception, 53 insufficient resources, 57P0x operator intervention.
		return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "53") || strings.HasPrefix(code, "57P")
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || pgconn.SafeToRetry(err) ||
		errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// Code is the SQLSTATE of the server's answer, or empty when the error did not come from the server.
func Code(err error) string {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		return answer.Code
	}
	return ""
}

func violates(err error, code, constraint string) bool {
	var answer *pgconn.PgError
	if !errors.As(err, &answer) || answer.Code != code {
		return false
	}
	return constraint == "" || answer.ConstraintName == constraint
}
