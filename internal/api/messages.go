package api

func (a *API) messageRoutes() {}
