// Package inbox is about chats and messages as rows: who may see a chat (Access), and the figures that are kept beside it (Projector), the
// unread messages and the time of the last one. For `roombell dev` it also writes demo data and traffic.
//
// cmd/roombell builds it. The projector hears from eventlog.Tail what was written, and both write through package db. It promises
// that chats.unread_count and last_message_at are right within a second of the write, whoever wrote, and that no writer ever waits for that.
package inbox
