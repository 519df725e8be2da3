package api

func (a *API) streamRoutes() {}
