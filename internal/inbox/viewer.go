package inbox

import (
	"errors"
	"fmt"
	"sync/atomic"

	"roombell/db"
)

// Roles, as users.role has them.
const (
	Employee = "employee"
	Manager  = "manager"
	Admin    = "admin"
)

// Viewer is on whose behalf something is done: an active user, as the table has him now. What he may not see is ErrNotFound to him.
type Viewer struct {
	ID             int64
	OrganizationID int64
	Role           string
}

// IsAdmin says that he sees restricted chats and may write users and channels.
func (v Viewer) IsAdmin() bool { return v.Role == Admin }

// Why the inbox refuses. Each is wrapped in a sentence for the one who asked.
var (
	// ErrForbidden says that the thing is there, and that this role may not do that.
	ErrForbidden = errors.New("not allowed for this role")
	// ErrInvalid says that the values do not fit; it is an *InvalidError.
	ErrInvalid = errors.New("invalid")
	// ErrConflict says that something else is there already, or that the state does not allow it.
	ErrConflict = errors.New("conflict")
)

// InvalidError names the field that does not fit. Code is the stable code that a client decides on.
type InvalidError struct {
	Field   string // as in JSON: "assignedUserId"; empty: the whole
	Code    string // empty: validation_failed
	Message string
}

func (e *InvalidError) Error() string {
	if e.Field == "" {
		return e.Message
	}
	return fmt.Sprintf("%s: %s", e.Field, e.Message)
}

// Is makes errors.Is(err, ErrInvalid) hold.
func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

// Inbox is the rules by which chats, messages and what belongs to them are read and written for people. It emits nothing: the
// triggers record what it commits.
type Inbox struct {
	db      Database
	queries *db.Queries
	keyed   atomic.Uint64 // writes with an idempotency key
}

// Database is what an Inbox needs of a pool.
type Database interface {
	db.DBTX
	db.Beginner
}

// New reads from and writes to the given pool.
func New(d Database) *Inbox { return &Inbox{db: d, queries: db.New(d)} }

// Page asks for a part of a list. After is the key of the last item of the part before, zero for the first; Limit is 1 to 200.
type Page struct {
	After int64
	Limit int
}
