package api

func (a *API) chatRoutes() {}
