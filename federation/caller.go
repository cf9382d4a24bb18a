package federation

import (
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// userParam is the query parameter that names the user for whom a server asks.
const userParam = "user_id"

// Caller is who asks in a request that origin has signed: one of its users, or the server itself where the query names no
// user. A user of another server is a KindForbidden error, a malformed or repeated user id a KindBadMessage error.
func Caller(origin string, r *http.Request) (api.Caller, error) {
	const op = "authenticate"
	c := api.Caller{Server: origin}
	users := r.URL.Query()[userParam]
	switch len(users) {
	case 0:
		return c, nil
	case 1:
		c.UserID = users[0]
	default:
		return c, mimiport.Errorf(op, mimiport.KindBadMessage, "%s stands there more than once", userParam)
	}
	id, err := spec.NewUserID(c.UserID, true)
	if err != nil {
		return c, mimiport.Errorf(op, mimiport.KindBadMessage, "%s: %w", userParam, err)
	}
	if string(id.Domain()) != origin {
		return c, mimiport.Errorf(op, mimiport.KindForbidden, "%s speaks for no user of %s", origin, id.Domain())
	}
	return c, nil
}
