package realtime

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// event is one that the document describes, with a value of the type of its payload.
type event struct {
	name    string
	payload any
	about   string
}

// serverEvents are all that a client may hear but those that writers name themselves.
var serverEvents = []event{
	{"connected", connectedEvent{}, "The first event. On a resume the cursor is the client's own."},
	{"chat:new", chatNewEvent{}, "A chat, new or newly to be seen by this user."},
	{"chat:updated", chatUpdatedEvent{}, "What changed of a chat, with the new values."},
	{"chat:deleted", chatDeletedEvent{}, "A chat is gone, with its messages, or no longer to be seen by this user."},
	{"chats:updated", chatsUpdatedEvent{}, "The sum of a bulk write: refetch what is shown of these chats."},
	{"message:new", messageNewEvent{}, "A message."},
	{"message:updated", messageUpdatedEvent{}, "What changed of a message, with the new values; status and read mark have events of their own."},
	{"message:deleted", messageDeletedEvent{}, "A message is gone."},
	{"message:status", messageStatusEvent{}, "How far a message has come."},
	{"messages:read", messagesReadEvent{}, "Messages of a chat were read."},
	{"user:notification", userNotificationEvent{}, "A notification for this user. Writers may send an event of this name themselves (notify_user): its data is then theirs."},
	{"notification:updated", notificationUpdatedEvent{}, "A notification was read, or changed."},
	{"notification:deleted", notificationDeletedEvent{}, "A notification is gone."},
	{"notifications:updated", notificationsUpdatedEvent{}, "The sum of a bulk write of this user's notifications: refetch them."},
	{"typing:start", typingEvent{}, "Another user types in a chat that this socket is subscribed to. Ends by itself after 6 s."},
	{"typing:stop", typingEvent{}, "He no longer does."},
	{"presence:changed", presenceEvent{}, "A user came, went, or is away."},
	{"chat:joined", chatUserEvent{}, "Another user opened a chat that this socket is subscribed to."},
	{"chat:left", chatUserEvent{}, "He left it."},
	{"channel:status", channelStatusEvent{}, "A channel's connection."},
	{"qr", channelQREvent{}, "A code to scan, for admins; never stored."},
	{"subscribed:chat", chatEvent{}, "Beside the acknowledgement of subscribe:chat."},
	{"unsubscribed:chat", chatEvent{}, "Beside the acknowledgement of unsubscribe:chat."},
	{"sync:complete", completeEvent{}, "What was missed has all been sent; live events follow."},
	{"sync:reset", resetEvent{}, "What was missed, or what is shown, cannot be made good by events: refetch by HTTP."},
	{"sync:cursor", cursorEvent{}, "A newer position for a client that heard nothing."},
	{"auth:expiring", expiringEvent{}, "The token ends: refresh it, or the socket is disconnected."},
	{"error", errorEvent{}, "A client event without acknowledgement was not done."},
}

// notYet are described, and sent by no version so far.
var notYet = []string{"channel:status", "qr"}

// request is an event that clients send, with its answer.
type request struct {
	event
	answer any
}

var clientEvents = []request{
	{event{"subscribe:chat", chatInput, "Hear of typing, and of who opened the chat."}, chatDone{}},
	{event{"unsubscribe:chat", chatInput, "No longer."}, chatDone{}},
	{event{"typing:start", chatInput, "This user types in a chat subscribed to."}, done{}},
	{event{"typing:stop", chatInput, "No longer."}, done{}},
	{event{"presence:set", presenceInput{}, "What the user says of himself."}, presenceDone{}},
	{event{"presence:list", nil, "Who is not offline."}, presenceList{}},
	{event{"auth:refresh", tokenInput{}, "Go on with another token."}, refreshDone{}},
}

// chatID and chatInput are what parseChatID reads.
var (
	chatID    = []object{{{"type", "integer"}, {"minimum", 1}}, {{"type", "string"}, {"pattern", "^[0-9]{1,19}$"}}}
	chatInput = object{{"description", "A chat: a number, a numeric string, or an object with either"}, {"oneOf", append(chatID[:2:2], object{
		{"type", "object"}, {"properties", object{{"chatId", object{{"oneOf", chatID}}}}}, {"required", []string{"chatId"}}, {"additionalProperties", false},
	})}}
)

// customEvent is any name that writers send.
const customEvent = "CustomEvent"

// AsyncAPI is the AsyncAPI 3 document of all events, as indented JSON. It is made from the types that the server encodes, and from those of
// payloads.go for what SQL does.
func AsyncAPI(version string) ([]byte, error) {
	d := &document{}
	for _, e := range serverEvents {
		d.send(e)
	}
	d.custom()
	for _, r := range clientEvents {
		d.receive(r)
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(d.whole(version)); err != nil {
		return nil, fmt.Errorf("encode the AsyncAPI document: %w", err)
	}
	return b.Bytes(), nil
}

// document is one under way.
type document struct {
	schemas                        schemas
	messages, channels, operations object
}

func (d *document) whole(version string) object {
	return object{
		{"asyncapi", "3.0.0"},
		{"info", object{{"title", "Roombell"}, {"version", version}, {"description", "The events of Roombell over Socket.IO 5, as any socket.io-client 4 hears them, in the namespace `/`. " +
			"The same events come as server-sent events from GET /api/v1/events/stream. The handshake is `auth: {token, cursor?}`, or the header `Authorization: Bearer`."}}},
		{"defaultContentType", "application/json"},
		{"servers", object{{"roombell", object{
			{"host", "{address}"}, {"pathname", "/socket.io/"}, {"protocol", "wss"}, {"description", "WebSocket or polling"},
			{"variables", object{{"address", object{{"default", "localhost:3000"}, {"description", "ROOMBELL_ADDR, as clients reach it"}}}}},
			{"security", []object{reference("securitySchemes", "token")}},
		}}}},
		{"channels", object{{"socket", object{{"address", "/"}, {"description", "One socket. What it hears, its rooms decide."}, {"messages", d.channels}}}}},
		{"operations", d.operations},
		{"components", object{
			{"messages", d.messages}, {"schemas", d.schemas.named},
			{"securitySchemes", object{{"token", object{{"type", "http"}, {"scheme", "bearer"}, {"bearerFormat", "JWT"}}}}},
		}},
	}
}

func (d *document) send(e event) {
	key := pascal(e.name)
	d.message(key, e, d.schemas.add(key, reflect.TypeOf(e.payload)))
	d.operations = append(d.operations, field{"send" + key, d.operation("send", e, key)})
}

// custom describes the events whose name and data writers choose: the one open schema.
func (d *document) custom() {
	properties, required := d.schemas.fields(reflect.TypeFor[logged]())
	d.schemas.named = append(d.schemas.named, field{customEvent, object{
		{"type", "object"}, {"properties", properties}, {"required", required}, {"additionalProperties", true},
	}})
	e := event{"*", nil, "Any name that a writer gave to notify_user or broadcast_to_organization, in SQL or by HTTP: his data, and the position."}
	d.message(customEvent, e, reference("schemas", customEvent))
	d.operations = append(d.operations, field{"send" + customEvent, d.operation("send", e, customEvent)})
}

func (d *document) receive(r request) {
	key := pascal(r.name)
	var payload object
	switch p := r.payload.(type) {
	case nil:
	case object:
		payload = p
	default:
		payload = d.schemas.add(key, reflect.TypeOf(p))
	}
	d.message(key+"Request", r.event, payload)
	answer, refusal := reflect.TypeOf(r.answer), reflect.TypeFor[failed]()
	d.message(key+"Answer", event{r.name, nil, "The acknowledgement of " + r.name + "."}, object{
		{"oneOf", []object{d.schemas.add(typeName(answer), answer), d.schemas.add(typeName(refusal), refusal)}}})
	operation := append(d.operation("receive", r.event, key+"Request"), field{"reply", object{
		{"channel", object{{"$ref", "#/channels/socket"}}}, {"messages", []object{inChannel(key + "Answer")}},
	}})
	d.operations = append(d.operations, field{"receive" + key, operation})
}

// message describes an event's message; a nil payload is none.
func (d *document) message(key string, e event, payload object) {
	m := object{{"name", e.name}, {"title", e.name}, {"summary", e.about}}
	if payload != nil {
		m = append(m, field{"payload", payload})
	}
	for _, name := range notYet {
		if name == e.name {
			m = append(m, field{"x-not-yet-sent", true})
		}
	}
	d.messages = append(d.messages, field{key, m})
	d.channels = append(d.channels, field{key, reference("messages", key)})
}

func (d *document) operation(action string, e event, key string) object {
	return object{
		{"action", action}, {"summary", e.about}, {"channel", object{{"$ref", "#/channels/socket"}}}, {"messages", []object{inChannel(key)}},
	}
}

func inChannel(key string) object { return object{{"$ref", "#/channels/socket/messages/" + key}} }

// pascal makes a name of the document: message:new is MessageNew.
func pascal(name string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(name, ":") {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}
