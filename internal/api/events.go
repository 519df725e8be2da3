package api

// Log is the event log's history, for GET /events, the stream, and traces.
type Log any

func (a *API) eventRoutes() {}
