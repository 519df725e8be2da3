package api

// Live is what the sockets of this node know: realtime.Server, by way of cmd/roombell.
type Live any

func (a *API) liveRoutes() {}
