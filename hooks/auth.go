package hooks

import (
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/clientapi/auth"
	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	fedrouting "github.com/matrix-org/dendrite/federationapi/routing"
	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// authenticator identifies the sender of a request. It uses Dendrite's checks and Dendrite's errors.
type authenticator struct {
	users   userapi.UserInternalAPI
	servers *federation.Verifier
	wakeups *fedrouting.FederationWakeups
	spoke   func(server string) // called when a server sends a request
}

// client identifies a local user by the access token. It refuses guests.
func (a *authenticator) client(r *http.Request) (api.Caller, error) {
	device, denial := auth.VerifyUserFromRequest(r, a.users)
	if denial != nil {
		return api.Caller{}, &edge.Denied{Status: denial.Code, Body: denial.JSON}
	}
	if device.AccountType == userapi.AccountTypeGuest {
		return api.Caller{}, &edge.Denied{Status: http.StatusForbidden,
			Body: spec.GuestAccessForbidden("Guest access not allowed")}
	}
	return api.Caller{
		UserID: device.UserID,
		Server: string(device.UserDomain()),
		Admin:  device.AccountType == userapi.AccountTypeAdmin,

		OwnDevice: device.ID,
	}, nil
}

// either identifies the sender of a direct request by its signature, and all others by their token.
func either(direct, token edge.Authenticate) edge.Authenticate {
	return func(r *http.Request) (api.Caller, error) {
		if api.IsDirect(r.Header) {
			return direct(r)
		}
		return token(r)
	}
}

// admin identifies a local user who administers this homeserver.
func (a *authenticator) admin(r *http.Request) (api.Caller, error) {
	caller, err := a.client(r)
	if err == nil && !caller.Admin {
		err = &edge.Denied{Status: http.StatusForbidden, Body: spec.Forbidden("This API can only be used by admin users.")}
	}
	return caller, err
}

// federation identifies another server by its signature on the request. That server vouches for its user.
func (a *authenticator) federation(r *http.Request) (api.Caller, error) {
	origin, to, err := a.servers.Verify(r)
	if err != nil {
		return api.Caller{}, err
	}
	// As on Dendrite's own routes: a server that sends a request is up, so Dendrite may send it the waiting events.
	go a.wakeups.Wakeup(r.Context(), origin)
	a.spoke(string(origin))
	return federation.Caller(origin, to, r)
}
