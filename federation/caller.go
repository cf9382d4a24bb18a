package federation

import (
	"net/http"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// userParam is the query parameter with the user in whose name a server sends a request.
const userParam = "user_id"

// Caller returns the caller of a request that origin has signed: one of its users, or the server itself when the query
// names no user. It returns a KindForbidden error for a user of another server, and a KindBadMessage error for a
// malformed or repeated user id.
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
		return c, mimiport.Errorf(op, mimiport.KindBadMessage, "%s is repeated", userParam)
	}
	id, err := spec.NewUserID(c.UserID, true)
	if err != nil {
		return c, mimiport.Errorf(op, mimiport.KindBadMessage, "%s: %w", userParam, err)
	}
	if string(id.Domain()) != origin {
		return c, mimiport.Errorf(op, mimiport.KindForbidden, "%s cannot send requests for users of %s", origin, id.Domain())
	}
	return c, nil
}
