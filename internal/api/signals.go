package api

func (a *API) signalRoutes() {}
