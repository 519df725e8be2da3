package main

import (
	"roombell/internal/api"
	"roombell/internal/auth"
	"roombell/internal/inbox"
	"roombell/internal/realtime"
)

// newAPI gives the HTTP API the parts that it stands on.
func (v *service) newAPI() (*api.API, error) {
	session := api.Session{TTL: v.settings.TokenTTL, AdminKey: string(v.settings.AdminKey)}
	if v.settings.JWTSecret != "" {
		issuer, err := auth.NewIssuer([]byte(v.settings.JWTSecret), v.settings.claims(), nil)
		if err != nil {
			return nil, err
		}
		session.Issuer = issuer
	}
	events, err := realtime.AsyncAPI(readVersion().version)
	if err != nil {
		return nil, err
	}
	heard := listening{v.realtime, v.history, nodeName()}
	return api.New(api.Options{
		Log: heard, Live: heard,
		Inbox: inbox.New(v.pool), Tokens: v.verifier, Version: readVersion().version, Session: session,
		Edge:     api.Edge{Origins: v.settings.CORSOrigins, TrustedProxies: prefixes(v.settings.TrustedProxies)},
		AsyncAPI: events, Logger: v.log, Registerer: v.registry,
	})
}
