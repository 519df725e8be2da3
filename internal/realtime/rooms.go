package realtime

import (
	"strconv"

	"github.com/zishang520/socket.io/servers/socket/v3"

	"roombell/internal/eventlog"
)

// everyone stands for all sockets of all organizations. No socket joins it, and no id can spell it.
const everyone socket.Room = "*"

func organizationRoom(id int64) socket.Room { return room("org_", id) }
func userRoom(id int64) socket.Room         { return room("user_", id) }
func chatRoom(id int64) socket.Room         { return room("chat_", id) }

func userRooms(id int64) []socket.Room { return []socket.Room{userRoom(id)} }

func room(prefix string, id int64) socket.Room {
	return socket.Room(strconv.AppendInt([]byte(prefix), id, 10))
}

// Rooms returns the rooms whose sockets hear e, nil when nobody does. A user's own event goes to him alone, that of a
// restricted chat to its audience, any other to its organization; chat rooms hear nothing from the log, because who is
// in one is in one of those too. Only a truncate reaches across organizations: an event that names nobody is heard by
// nobody.
func Rooms(e eventlog.Event) []socket.Room {
	switch {
	case e.Kind == eventlog.KindTruncate:
		return []socket.Room{everyone}
	case e.Kind != eventlog.KindEvent && e.Kind != eventlog.KindCustom:
		return nil
	case e.UserID != 0:
		return userRooms(e.UserID)
	case e.Audience != nil:
		return audienceRooms(e.Audience)
	case e.OrganizationID != 0:
		return []socket.Room{organizationRoom(e.OrganizationID)}
	}
	return nil
}

func audienceRooms(users []int64) []socket.Room {
	if len(users) == 0 {
		return nil
	}
	rooms := make([]socket.Room, len(users))
	for i, id := range users {
		rooms[i] = userRoom(id)
	}
	return rooms
}
