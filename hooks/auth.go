package hooks

import (
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/clientapi/auth"
	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	fedrouting "github.com/matrix-org/dendrite/federationapi/routing"
	"github.com/matrix-org/dendrite/setup/config"
	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// authenticator identifies the sender of a request. It uses Dendrite's checks and Dendrite's errors.
type authenticator struct {
	config  *config.Global
	users   userapi.UserInternalAPI
	ring    gomatrixserverlib.JSONVerifier
	wakeups *fedrouting.FederationWakeups
	spoke   func(server string) // called when a server sends a request
	now     func() time.Time
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
	request, denial := fclient.VerifyHTTPRequest(r, a.now(), a.config.ServerName, a.config.IsLocalServerName, a.ring)
	if request == nil {
		return api.Caller{}, &edge.Denied{Status: denial.Code, Body: unsigned[denial.Code]}
	}
	// As on Dendrite's own routes: a server that sends a request is up, so Dendrite may send it the waiting events.
	go a.wakeups.Wakeup(r.Context(), request.Origin())
	a.spoke(string(request.Origin()))
	return federation.Caller(string(request.Origin()), r)
}

// unsigned maps the status of a refusal by fclient to a Matrix error. fclient logs the reason of each.
var unsigned = map[int]spec.MatrixError{
	http.StatusBadRequest:          {ErrCode: spec.ErrorBadJSON, Err: "The request is malformed or for another server."},
	http.StatusUnauthorized:        {ErrCode: "M_UNAUTHORIZED", Err: "The request is not signed by its origin."},
	http.StatusInternalServerError: {ErrCode: spec.ErrorUnknown, Err: "The signature could not be checked."},
}
