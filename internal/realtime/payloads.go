package realtime

import "encoding/json"

// What the triggers write as JSON (triggers/10_chats.sql and after), for the document: nothing here is ever filled in. A pointer may be
// null, omitempty may be missing. Times of rows are null where they have no RFC 3339 form (infinity, BC).

// logged is what each event of the log has beside its payload.
type logged struct {
	EventID   int64  `json:"eventId" doc:"The same for everybody; grows with the log"`
	Cursor    string `json:"cursor" doc:"The position after this event: bring it to get what comes after"`
	Timestamp string `json:"timestamp" format:"date-time" doc:"When it was recorded"`
}

// chatRow is public.chats as roombell.chat_json has it.
type chatRow struct {
	ID             int64    `json:"id"`
	OrganizationID int64    `json:"organizationId"`
	ChannelID      *int64   `json:"channelId"`
	Channel        string   `json:"channel" enum:"whatsapp,telegram,none"`
	Name           *string  `json:"name"`
	ExternalID     *string  `json:"externalId"`
	Status         string   `json:"status" enum:"new,open,in_progress,pending,resolved,closed"`
	Priority       string   `json:"priority" enum:"low,normal,high,urgent"`
	AssignedUserID *int64   `json:"assignedUserId"`
	Restricted     bool     `json:"restricted"`
	UnreadCount    int64    `json:"unreadCount"`
	LastMessageAt  *string  `json:"lastMessageAt" format:"date-time"`
	TicketNumber   int64    `json:"ticketNumber"`
	Tags           []string `json:"tags"`
	CreatedAt      *string  `json:"createdAt" format:"date-time"`
	UpdatedAt      *string  `json:"updatedAt" format:"date-time"`
}

type chatNewEvent struct {
	chatRow
	Truncated bool `json:"truncated,omitempty" const:"true" doc:"A text of the chat is over 256 KB; the whole by HTTP"`
	logged
}

type chatUpdatedEvent struct {
	ID              int64    `json:"id"`
	Changes         []string `json:"changes" enum:"channelId,channel,name,externalId,status,priority,assignedUserId,restricted,unreadCount,lastMessageAt,ticketNumber,tags,createdAt" doc:"The fields that follow"`
	ChangedByUserID *int64   `json:"changedByUserId" doc:"On whose behalf, where the writer said so"`
	UpdatedAt       *string  `json:"updatedAt" format:"date-time"`

	ChannelID      *int64   `json:"channelId,omitempty"`
	Channel        string   `json:"channel,omitempty" enum:"whatsapp,telegram,none"`
	Name           *string  `json:"name,omitempty"`
	ExternalID     *string  `json:"externalId,omitempty"`
	Status         string   `json:"status,omitempty" enum:"new,open,in_progress,pending,resolved,closed"`
	Priority       string   `json:"priority,omitempty" enum:"low,normal,high,urgent"`
	AssignedUserID *int64   `json:"assignedUserId,omitempty"`
	Restricted     bool     `json:"restricted,omitempty"`
	UnreadCount    int64    `json:"unreadCount,omitempty"`
	LastMessageAt  *string  `json:"lastMessageAt,omitempty" format:"date-time"`
	TicketNumber   int64    `json:"ticketNumber,omitempty"`
	Tags           []string `json:"tags,omitempty"`
	CreatedAt      *string  `json:"createdAt,omitempty" format:"date-time"`
	Truncated      bool     `json:"truncated,omitempty" const:"true"`
	logged
}

type chatDeletedEvent struct {
	ChatID int64  `json:"chatId"`
	Reason string `json:"reason,omitempty" enum:"access" doc:"The chat is still there, but this user may no longer see it"`
	logged
}

// chatsUpdatedEvent is a bulk, with its position.
type chatsUpdatedEvent struct {
	bulk
	logged
}

// messageNewEvent is public.messages as roombell.message_new has it. The message's own time is the timestamp.
type messageNewEvent struct {
	ID              int64   `json:"id"`
	ChatID          int64   `json:"chatId"`
	OrganizationID  int64   `json:"organizationId"`
	Channel         string  `json:"channel" enum:"whatsapp,telegram,none"`
	ChannelID       *int64  `json:"channelId"`
	Content         *string `json:"content"`
	Type            string  `json:"type" doc:"text, image, …"`
	MediaURL        *string `json:"mediaUrl"`
	Filename        *string `json:"filename"`
	MimeType        *string `json:"mimeType"`
	Size            *int64  `json:"size"`
	FromMe          bool    `json:"fromMe" doc:"Sent by the organization; else received"`
	SenderUserID    *int64  `json:"senderUserId"`
	Status          string  `json:"status" enum:"pending,sending,sent,delivered,read,failed,received"`
	QuotedMessageID *int64  `json:"quotedMessageId"`
	QuotedContent   *string `json:"quotedContent"`
	ExternalID      *string `json:"externalId"`
	Timestamp       *string `json:"timestamp" format:"date-time" doc:"The message's own time"`
	CreatedAt       *string `json:"createdAt" format:"date-time"`
	Truncated       bool    `json:"truncated,omitempty" const:"true" doc:"The content is over 256 KB; the whole by HTTP"`
	EventID         int64   `json:"eventId" doc:"The same for everybody; grows with the log"`
	Cursor          string  `json:"cursor" doc:"The position after this event: bring it to get what comes after"`
	RecordedAt      string  `json:"recordedAt" format:"date-time" doc:"When the event was recorded"`
}

type messageUpdatedEvent struct {
	MessageID int64    `json:"messageId"`
	ChatID    int64    `json:"chatId"`
	Changes   []string `json:"changes" enum:"channelId,content,type,mediaUrl,filename,mimeType,size,fromMe,senderUserId,quotedMessageId,quotedContent,externalId,timestamp,createdAt,error" doc:"The fields that follow. Where timestamp is one of them, the field is the event's time all the same"`

	ChannelID       *int64  `json:"channelId,omitempty"`
	Content         *string `json:"content,omitempty"`
	Type            string  `json:"type,omitempty"`
	MediaURL        *string `json:"mediaUrl,omitempty"`
	Filename        *string `json:"filename,omitempty"`
	MimeType        *string `json:"mimeType,omitempty"`
	Size            *int64  `json:"size,omitempty"`
	FromMe          bool    `json:"fromMe,omitempty"`
	SenderUserID    *int64  `json:"senderUserId,omitempty"`
	QuotedMessageID *int64  `json:"quotedMessageId,omitempty"`
	QuotedContent   *string `json:"quotedContent,omitempty"`
	ExternalID      *string `json:"externalId,omitempty"`
	CreatedAt       *string `json:"createdAt,omitempty" format:"date-time"`
	Error           *string `json:"error,omitempty"`
	Truncated       bool    `json:"truncated,omitempty" const:"true"`
	logged
}

type messageDeletedEvent struct {
	MessageID int64 `json:"messageId"`
	ChatID    int64 `json:"chatId"`
	logged
}

type messageStatusEvent struct {
	MessageID int64  `json:"messageId"`
	ChatID    int64  `json:"chatId"`
	Status    string `json:"status" enum:"pending,sending,sent,delivered,read,failed,received" doc:"Never goes backwards; failed ends it"`
	Error     string `json:"error,omitempty" doc:"Why it failed"`
	logged
}

type messagesReadEvent struct {
	ChatID       int64   `json:"chatId"`
	ReadByUserID *int64  `json:"readByUserId"`
	MessageIDs   []int64 `json:"messageIds" doc:"At most 500 of them"`
	Count        int64   `json:"count" doc:"How many were read"`
	UnreadCount  int64   `json:"unreadCount" doc:"What is left"`
	logged
}

type userNotificationEvent struct {
	ID        int64           `json:"id"`
	Type      string          `json:"type"`
	Message   string          `json:"message"`
	Data      json.RawMessage `json:"data" doc:"The row's data, as it was written"`
	CreatedAt *string         `json:"createdAt" format:"date-time"`
	Truncated bool            `json:"truncated,omitempty" const:"true"`
	logged
}

type notificationUpdatedEvent struct {
	ID     int64   `json:"id"`
	ReadAt *string `json:"readAt" format:"date-time"`
	logged
}

type notificationDeletedEvent struct {
	ID int64 `json:"id"`
	logged
}

type notificationsUpdatedEvent struct {
	Count   int64 `json:"count" doc:"How many were written"`
	AtLeast bool  `json:"atLeast,omitempty" const:"true" doc:"The count is a lower bound"`
	logged
}

// What comes with the channels.

type channelStatusEvent struct {
	ChannelID int64  `json:"channelId"`
	Provider  string `json:"provider" enum:"whatsapp,waba,telegram,none"`
	Status    string `json:"status"`
	Error     string `json:"error,omitempty"`
	logged
}

type channelQREvent struct {
	ChannelID int64  `json:"channelId"`
	QR        string `json:"qr"`
}

// What clients send.

type presenceInput struct {
	Status string `json:"status" enum:"online,away"`
}

type tokenInput struct {
	Token string `json:"token" doc:"Another token of the same user in the same organization"`
}
