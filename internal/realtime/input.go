package realtime

import (
	"math"
	"strconv"

	"github.com/zishang520/socket.io/servers/socket/v3"
)

// maxSafeInteger is Number.MAX_SAFE_INTEGER: a JSON number above it may not be the one that was sent.
const maxSafeInteger = 1<<53 - 1

// clientEvent is a packet as the library decoded it: strangers wrote every part of it but ack.
type clientEvent struct {
	name string // empty when it was no string
	arg  any    // the first argument, nil without one; what else was sent is not looked at
	ack  socket.Ack
}

func parseClientEvent(args []any) clientEvent {
	var e clientEvent
	if len(args) == 0 {
		return e
	}
	e.name, _ = args[0].(string)
	args = args[1:]
	if n := len(args); n > 0 {
		if ack, ok := args[n-1].(socket.Ack); ok {
			e.ack, args = ack, args[:n-1]
		}
	}
	if len(args) > 0 {
		e.arg = args[0]
	}
	return e
}

// parseChatID reads a number, a numeric string or {chatId} of either. Exactly: what is no positive whole number, or
// would have been rounded on its way, is refused.
func parseChatID(arg any) (int64, bool) {
	if object, ok := arg.(map[string]any); ok {
		arg = object["chatId"]
	}
	switch v := arg.(type) {
	case float64:
		if v < 1 || v > maxSafeInteger || v != math.Trunc(v) {
			return 0, false
		}
		return int64(v), true
	case string:
		return parseDigits(v)
	}
	return 0, false
}

func parseDigits(s string) (int64, bool) {
	// 19 digits are the most that an int64 has. ParseInt would take a sign, too.
	if s == "" || len(s) > 19 || s[0] < '0' || s[0] > '9' {
		return 0, false
	}
	id, err := strconv.ParseInt(s, 10, 64)
	return id, err == nil && id > 0
}

// parsePresence reads {status}: what somebody says of himself. Offline nobody says, it is what is left.
func parsePresence(arg any) (string, bool) {
	object, _ := arg.(map[string]any)
	status, _ := object["status"].(string)
	return status, status == statusOnline || status == statusAway
}

// parseToken reads {token}. An empty one is none, and for auth to refuse.
func parseToken(arg any) (string, bool) {
	object, ok := arg.(map[string]any)
	if !ok {
		return "", false
	}
	token, ok := object["token"].(string)
	return token, ok
}
