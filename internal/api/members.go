package api

func (a *API) memberRoutes() {}
