package federation

import (
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// Verifier checks who has signed a request, by X-Matrix.
type Verifier struct {
	Server  spec.ServerName // this server: for a request that names no destination
	IsLocal func(spec.ServerName) bool
	Ring    gomatrixserverlib.JSONVerifier // the keys of other servers
	Now     func() time.Time
}

// Verify returns the server that has signed a request, and the name of this server to which the request is addressed.
// It returns an *edge.Denied with Dendrite's status if there is no such server. It reads the body.
func (v *Verifier) Verify(r *http.Request) (origin, to spec.ServerName, err error) {
	request, denial := fclient.VerifyHTTPRequest(r, v.Now(), v.Server, v.IsLocal, v.Ring)
	if request == nil {
		return "", "", &edge.Denied{Status: denial.Code, Body: unsigned[denial.Code]}
	}
	return request.Origin(), request.Destination(), nil
}

// unsigned maps the status of a refusal by fclient to a Matrix error. fclient logs the reason of each.
var unsigned = map[int]spec.MatrixError{
	http.StatusBadRequest:          {ErrCode: spec.ErrorBadJSON, Err: "The request is malformed or for another server."},
	http.StatusUnauthorized:        {ErrCode: "M_UNAUTHORIZED", Err: "The request is not signed by its origin."},
	http.StatusInternalServerError: {ErrCode: spec.ErrorUnknown, Err: "The signature could not be checked."},
}

// userParam is the query parameter with the user in whose name a server sends a request.
const userParam = "user_id"

// Caller returns the caller of a request to a name of this server that origin has signed: one of its users, or the
// server itself when the query names no user. It returns a KindForbidden error for a user of another server, and a
// KindBadMessage error for a malformed or repeated user id.
func Caller(origin, to spec.ServerName, r *http.Request) (api.Caller, error) {
	const op = "authenticate"
	c := api.Caller{Server: string(origin), To: string(to)}
	users := r.URL.Query()[userParam]
	switch len(users) {
	case 0:
		return c, nil
	case 1:
		c.UserID = users[0]
	default:
		return c, mimiport.Errorf(op, mimiport.KindBadMessage, "%s is repeated", userParam)
	}
	server, err := mimiport.ParseUserID(c.UserID)
	if err != nil {
		return c, mimiport.Errorf(op, mimiport.KindBadMessage, "%s: %w", userParam, err)
	}
	if server != string(origin) {
		return c, mimiport.Errorf(op, mimiport.KindForbidden, "%s cannot send requests for users of %s", origin, server)
	}
	return c, nil
}
