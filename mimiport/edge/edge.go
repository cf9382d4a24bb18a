// Package edge turns calls on a Delivery Service into HTTP: limits first, then authentication, then one call that knows no
// HTTP, then one table from errors to status and code. The client, federation and admin APIs are tables of its routes.
package edge

import (
	"context"
	"net/http"
	"net/url"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// Authenticate says who sends a request, or returns a *Denied. It may read the body, which is already limited in size,
// time and memory; for a route with a raw body it is given a request without one.
type Authenticate func(r *http.Request) (api.Caller, error)

// Denied is a refusal in the words of the homeserver: it is written as it is.
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

// Body reads the whole body into memory, at most Route.MaxBody bytes. The error is of KindTooLarge, of KindQuota where
// the memory for bodies is in use or the body comes too slowly, of KindBadMessage where it ends too early, and of
// KindBadSignature where another body was signed.
func (r *Request) Body() ([]byte, error) { return r.body.bytes() }

// Raw is an answer that is not JSON but application/octet-stream.
type Raw []byte

// Route is one row of a table: the route and the call behind it.
type Route struct {
	api.Route

	Federation bool // asked by another server, which must never see a 5xx for what is not a fault of this one

	// Admit refuses, before the body is read, whoever need not send it. Nil admits every caller. Where a signature covers
	// the body, it has been read to know the caller.
	Admit func(ctx context.Context, r *Request) error

	Serve func(ctx context.Context, r *Request) (answer any, err error)
}
