// Package edge serves calls on a Delivery Service over HTTP. For each request it checks limits, then authenticates the
// caller, then makes one call that knows no HTTP. One table maps an error to its status and code. The client,
// federation and admin APIs are tables of routes of this package.
package edge

import (
	"context"
	"net/http"
	"net/url"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// Authenticate returns the caller of a request, or a *Denied. It may read the body, which is limited in size, time and
// memory. For a route with a raw body, the request has no body.
type Authenticate func(r *http.Request) (api.Caller, error)

// Denied is a refusal by the homeserver. The answer is Status and Body without any change.
type Denied struct {
	Status int
	Body   any // marshalled to JSON
}

func (d *Denied) Error() string { return http.StatusText(d.Status) }

// Request is an authenticated request.
type Request struct {
	Caller api.Caller
	Vars   map[string]string // path variables, unescaped
	Query  url.Values
	body   *body
}

// Body reads the whole body into memory, at most Route.MaxBody bytes. The error is KindTooLarge for a longer body,
// KindQuota when the memory for bodies is in use or the body comes too slowly, KindBadMessage when the body ends too
// early, and KindBadSignature when the sender signed another body.
func (r *Request) Body() ([]byte, error) { return r.body.bytes() }

// Raw is an answer of type application/octet-stream. All other answers are JSON.
type Raw []byte

// Route is one row of a table: the route and the call behind it.
type Route struct {
	api.Route

	Federation bool // other servers call it; they get a 5xx only for a fault of this server

	// Admit can refuse a caller before the body is read. Nil admits every caller. When a signature covers the body,
	// authentication has already read it.
	Admit func(ctx context.Context, r *Request) error

	Serve func(ctx context.Context, r *Request) (answer any, err error)
}
