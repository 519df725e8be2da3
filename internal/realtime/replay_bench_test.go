package realtime

import (
	"fmt"
	"testing"

	"roombell/internal/eventlog"
)

// BenchmarkReplay is what a client costs that missed a hundred events: half of them of restricted chats.
func BenchmarkReplay(b *testing.B) {
	s := &Server{metrics: newServerMetrics(nil)}
	batch := &eventlog.Batch{}
	asked := answered{found: map[int64]ChatRights{}}
	for chat := range int64(20) {
		asked.chats = append(asked.chats, chat)
		asked.found[chat] = ChatRights{ChatID: chat, Restricted: chat%2 == 0, Users: []int64{7, 8, 9}}
	}
	for i := range int64(100) {
		batch.Events = append(batch.Events, eventlog.Event{
			ID: i + 1, TxID: uint64(i + 1), OrganizationID: 1, ChatID: i % 20, Kind: eventlog.KindEvent, Name: "message:new",
			Payload: fmt.Appendf(nil, `{"id":%d,"chatId":%d,"content":"%0300d","type":"text","mediaUrl":null,"filename":null,"status":"received"}`, i, i%20, i),
		})
	}
	r := &resume{ear: ear{user: 9, organization: 1, rights: []answered{asked}}}
	b.ReportAllocs()
	for b.Loop() {
		if encoded := s.encodeMissed(r, batch); len(encoded.frames) != len(batch.Events) {
			b.Fatalf("%d of %d events", len(encoded.frames), len(batch.Events))
		}
	}
}
