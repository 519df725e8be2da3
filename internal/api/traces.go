package api

func (a *API) traceRoutes() {}
