// Package auth says who somebody is: it verifies and issues the tokens that people connect with, and hashes their
// passwords. It knows signatures, claims and clocks, and nothing of the database: whether the user still exists, is
// active and belongs to that organization is for the caller to ask.
//
// Tokens are JWTs. The algorithm is fixed by the key and never by the token: our secrets verify HS256 and nothing else,
// an identity provider's published keys (JWKS) verify RS256, ES256 or EdDSA as their type says.
package auth

import (
	"errors"
	"time"
)

// What Verify refuses a token with; ask with errors.Is. The text behind them is for the operator's log, never for the
// stranger who sent the token, and holds no part of the token.
var (
	ErrNoToken      = errors.New("no token")
	ErrInvalidToken = errors.New("invalid token")
	ErrTokenExpired = errors.New("token expired")
	// ErrUnavailable is no verdict: the identity provider cannot be asked for the key just now. Whoever sent the token
	// should come back.
	ErrUnavailable = errors.New("identity provider unavailable")
)

// Identity is what a token says about its bearer. Email and Role are empty when the token does not carry them; the
// role that counts is the table's.
type Identity struct {
	UserID         int64
	OrganizationID int64
	Email          string
	Role           string
	ExpiresAt      time.Time
	IssuedAt       time.Time // zero: the token does not say

	// Of tokens of our own alone, zero in all others:
	Generation int32     // of the user's tokens, counted from 1
	LoginAt    time.Time // when he gave his password; refreshing does not move it
}

// RefreshTime is how long after a login its tokens may be exchanged for fresh ones.
const RefreshTime = 7 * 24 * time.Hour

// Void says that the token came before the user's tokens were ended: by a changed password, or by logging out everywhere. generation and
// from are the user's; a nil from says that this never happened. Tokens of our own are told by their generation, because clocks of
// nodes and database differ; all others by when they were issued, in whole seconds: one that does not say is void.
func (id Identity) Void(generation int32, from *time.Time) bool {
	if id.Generation > 0 {
		return id.Generation != generation
	}
	return from != nil && id.IssuedAt.Before(*from)
}

// MayRefresh says that it is a token of a login of ours, not too long ago.
func (id Identity) MayRefresh(now time.Time) bool {
	return id.Generation > 0 && !id.LoginAt.IsZero() && now.Before(id.LoginAt.Add(RefreshTime))
}

// Claims names the claims that carry the two ids. The zero value reads `userId` (else `sub`) and `organizationId`.
type Claims struct {
	User         string
	Organization string
}

const (
	defaultUserClaim         = "userId"
	subjectClaim             = "sub"
	defaultOrganizationClaim = "organizationId"
)

func (c Claims) user() string {
	if c.User == "" {
		return defaultUserClaim
	}
	return c.User
}

func (c Claims) organization() string {
	if c.Organization == "" {
		return defaultOrganizationClaim
	}
	return c.Organization
}
