package realtime

import "time"

// Hasten shortens what wire tests would have to wait for.
func (o *Options) Hasten(typing, offline time.Duration) {
	o.timing.typing, o.timing.offline = typing, offline
}
