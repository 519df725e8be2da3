package api

func (a *API) channelRoutes() {}
