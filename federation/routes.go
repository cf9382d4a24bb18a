// Package federation is the server-to-server API: the routes that other homeservers call, for their users and for
// themselves, and the client that calls the same routes on them.
package federation

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// PathPrefix is where Routes are mounted.
const PathPrefix = "/_matrix/federation/unstable/" + api.Namespace

// Service is what other servers can ask of this one.
type Service interface {
	api.API

	// PutContent takes the content from the source, origin, and returns this server's vote; nil while it is at work.
	PutContent(ctx context.Context, origin string, c *api.ContentUpload) (vote *api.SignedRequest, err error)

	// AbortFromSource takes the source's signed abort.
	AbortFromSource(ctx context.Context, origin string, id mimiport.MigrationID, m *api.SignedRequest) error
}

// Routes is the federation API of svc. maxGroupState is the largest group_state it takes, in bytes.
func Routes(svc Service, maxGroupState int64) []edge.Route {
	routes := append(edge.UserRoutes(func(*edge.Request) (api.API, error) { return svc, nil }, api.MaxBind),
		contentRoute(svc, maxGroupState), abortRoute(svc))
	for i, rt := range routes {
		routes[i].Federation = true
		switch rt.Name {
		case api.GetMigration.Name, api.ConfirmMigration.Name, api.ShowLineage.Name: // for users and for servers
		case api.PutContent.Name, api.PutAbort.Name:
			routes[i].Serve = require(rt.Serve, func(c api.Caller) bool { return c.UserID == "" }, "this is for servers, not for users")
		default:
			routes[i].Serve = require(rt.Serve, func(c api.Caller) bool { return c.UserID != "" }, "user_id is missing")
		}
	}
	return routes
}

type serve = func(context.Context, *edge.Request) (any, error)

func require(next serve, acceptable func(api.Caller) bool, otherwise string) serve {
	return func(ctx context.Context, r *edge.Request) (any, error) {
		if !acceptable(r.Caller) {
			return nil, mimiport.Errorf("authorize", mimiport.KindForbidden, "%s", otherwise)
		}
		return next(ctx, r)
	}
}
