package eventlog

import "time"

// Kind says what an event is for.
type Kind uint8

// The kinds of the log. Zero is a kind that a newer version of the triggers writes: skip it.
const (
	KindEvent    Kind = iota + 1 // an event of the contract: Name and Payload go to clients
	KindCustom                   // notify_user and broadcast_to_organization: Name is a user's word
	KindTouch                    // no client hears it: counters of ChatID and Touched may have changed
	KindUser                     // the role or activity of UserID changed, or he is gone; nobody hears it
	KindChats                    // rights on the chats in Touched may have changed
	KindTruncate                 // a business table was truncated: everybody refetches
	KindForget                   // rows of the log were blanked: who keeps copies of them lets go of them; nobody hears it
)

// kinds are the log's words, by Kind.
var kinds = [...]string{"unknown", "event", "custom", "touch", "user", "chats", "truncate", "forget"}

// String returns the log's word for the kind, "unknown" for one of a newer version.
func (k Kind) String() string {
	if int(k) >= len(kinds) {
		return kinds[0]
	}
	return kinds[k]
}

func parseKind(word []byte) Kind {
	for i := int(KindEvent); i < len(kinds); i++ {
		if string(word) == kinds[i] {
			return Kind(i)
		}
	}
	return 0
}

// Event is one row of the log. It is shared by all who hear it: nobody may write to its slices.
type Event struct {
	ID         int64     // ascending for the changes of one row
	TxID       uint64    // the top-level transaction, also inside savepoints
	RecordedAt time.Time // the database's clock, UTC

	// Who is meant, 0 for none. Without an organization the event is for everybody.
	OrganizationID, ChatID, UserID int64
	// Audience lists the users addressed one by one; nil means that the event is not restricted, empty that nobody may hear it.
	Audience []int64

	Kind    Kind
	Name    string  // of the wire event; empty for kinds that no client hears
	Payload []byte  // a JSON object as the trigger wrote it, or nil
	Touched []int64 // chats whose counters may have changed, beside ChatID
}

// contractName returns the constant for an event name of the contract, without allocating, and whether it is one. Only these become
// labels of metrics: other names are users' words.
func contractName(name []byte) (string, bool) {
	switch string(name) {
	case "chat:new":
		return "chat:new", true
	case "chat:updated":
		return "chat:updated", true
	case "chat:deleted":
		return "chat:deleted", true
	case "chats:updated":
		return "chats:updated", true
	case "message:new":
		return "message:new", true
	case "message:updated":
		return "message:updated", true
	case "message:deleted":
		return "message:deleted", true
	case "message:status":
		return "message:status", true
	case "messages:read":
		return "messages:read", true
	case "user:notification":
		return "user:notification", true
	case "notification:updated":
		return "notification:updated", true
	case "notification:deleted":
		return "notification:deleted", true
	case "notifications:updated":
		return "notifications:updated", true
	case "channel:status":
		return "channel:status", true
	}
	return "", false
}
