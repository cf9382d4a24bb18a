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

// authenticator answers who sends a request, by Dendrite's means and in Dendrite's words.
type authenticator struct {
	config  *config.Global
	users   userapi.UserInternalAPI
	ring    gomatrixserverlib.JSONVerifier
	wakeups *fedrouting.FederationWakeups
	spoke   func(server string) // what is to know that a server is there
	now     func() time.Time
}

// client knows a local user by the access token. Guests are refused.
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
	}, nil
}

// either knows whoever sends a direct request by its signature, and others by their token.
func either(direct, token edge.Authenticate) edge.Authenticate {
	return func(r *http.Request) (api.Caller, error) {
		if api.IsDirect(r.Header) {
			return direct(r)
		}
		return token(r)
	}
}

// admin knows a local user who administers this homeserver.
func (a *authenticator) admin(r *http.Request) (api.Caller, error) {
	caller, err := a.client(r)
	if err == nil && !caller.Admin {
		err = &edge.Denied{Status: http.StatusForbidden, Body: spec.Forbidden("This API can only be used by admin users.")}
	}
	return caller, err
}

// federation knows another server by its signature on the request, and a user by that server's word.
func (a *authenticator) federation(r *http.Request) (api.Caller, error) {
	request, denial := fclient.VerifyHTTPRequest(r, a.now(), a.config.ServerName, a.config.IsLocalServerName, a.ring)
	if request == nil {
		return api.Caller{}, &edge.Denied{Status: denial.Code, Body: unsigned[denial.Code]}
	}
	// As for every authenticated request: whoever speaks to us is alive, and Dendrite may send it what it has kept back.
	go a.wakeups.Wakeup(r.Context(), request.Origin())
	a.spoke(string(request.Origin()))
	return federation.Caller(string(request.Origin()), r)
}

// unsigned is what fclient's refusals, by status, are in the form that Matrix errors have. It logs the reason of each.
var unsigned = map[int]spec.MatrixError{
	http.StatusBadRequest:          {ErrCode: spec.ErrorBadJSON, Err: "The request is malformed or for another server."},
	http.StatusUnauthorized:        {ErrCode: "M_UNAUTHORIZED", Err: "The request is not signed by its origin."},
	http.StatusInternalServerError: {ErrCode: spec.ErrorUnknown, Err: "The signature could not be checked."},
}
