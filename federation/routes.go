// Package federation is the server-to-server API. It has the routes that other homeservers call, for their users and
// for themselves, and the client that calls the same routes of other homeservers.
package federation

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// PathPrefix is the path under which Routes are mounted.
const PathPrefix = "/_matrix/federation/unstable/" + api.Namespace

// Service has the calls of other servers on this server's Delivery Service.
type Service interface {
	api.API

	// PutContent receives the content from the source origin, and returns this server's vote. The vote is nil while this
	// server still works on the content.
	PutContent(ctx context.Context, origin string, c *api.ContentUpload) (vote *api.SignedRequest, err error)

	// AbortFromSource receives the source's signed abort.
	AbortFromSource(ctx context.Context, origin string, id mimiport.MigrationID, m *api.SignedRequest) error

	// Intake says what this server, under its name to, would take of a room's groups from origin. servers are the
	// homeservers of users who could move them.
	Intake(ctx context.Context, origin, to, roomID string, servers []string) (*api.Intake, error)
}

// Routes makes the federation API of svc. maxGroupState is the largest group_state that it accepts, in bytes.
func Routes(svc Service, maxGroupState int64) []edge.Route {
	routes := append(edge.UserRoutes(func(*edge.Request) (api.API, error) { return svc, nil }, api.MaxBind),
		contentRoute(svc, maxGroupState), abortRoute(svc), intakeRoute(svc))
	for i, rt := range routes {
		routes[i].Federation = true
		switch rt.Name {
		case api.GetMigration.Name, api.ConfirmMigration.Name, api.ShowLineage.Name: // for users and for servers
		case api.PutContent.Name, api.PutAbort.Name, api.GetIntake.Name:
			routes[i].Admit = require(rt.Admit, server, "only servers can call this, not users")
		default:
			routes[i].Admit = require(rt.Admit, user, "user_id is missing")
		}
	}
	return routes
}

func server(c api.Caller) bool { return c.UserID == "" }
func user(c api.Caller) bool   { return c.UserID != "" }

type admit = func(context.Context, *edge.Request) error

func require(next admit, acceptable func(api.Caller) bool, otherwise string) admit {
	return func(ctx context.Context, r *edge.Request) error {
		if !acceptable(r.Caller) {
			return mimiport.Errorf("authorize", mimiport.KindForbidden, "%s", otherwise)
		}
		if next == nil {
			return nil
		}
		return next(ctx, r)
	}
}
