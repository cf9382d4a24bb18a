// Package federation is the server-to-server API: the routes that other homeservers call, for their users and for
// themselves, and the client that calls the same routes on them.
package federation

import (
	"context"
	"math"
	"net/http"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// PathPrefix is where Routes are mounted.
const PathPrefix = "/_matrix/federation/unstable/" + edge.Namespace

// The limits in bytes of JSON bodies: 1 MiB in base64 with room to spare, and for binding a group, whose ratchet tree is in
// it, more. Both are small because it takes 20 times the size in memory to check who has signed a JSON body.
const (
	maxJSON = 3 << 19
	maxBind = 8 << 20
)

// The routes, as server and client must agree on them; what serves them is added below. Names are those of openapi.yaml.
var (
	reserveGroup     = edge.Route{Name: "reserveGroup", Method: http.MethodPost, Path: "/groups", MaxBody: maxJSON}
	bindGroup        = edge.Route{Name: "bindGroup", Method: http.MethodPut, Path: "/groups/{groupId}", MaxBody: maxBind}
	getGroup         = edge.Route{Name: "getGroup", Method: http.MethodGet, Path: "/groups/{groupId}"}
	getHost          = edge.Route{Name: "getHost", Method: http.MethodGet, Path: "/groups/{groupId}/host"}
	showLineage      = edge.Route{Name: "showLineage", Method: http.MethodPut, Path: "/groups/{groupId}/lineage", MaxBody: maxJSON}
	getTree          = edge.Route{Name: "getTree", Method: http.MethodGet, Path: "/groups/{groupId}/tree"}
	submit           = edge.Route{Name: "submit", Method: http.MethodPost, Path: "/groups/{groupId}/messages", MaxBody: maxJSON}
	getMessages      = edge.Route{Name: "getMessages", Method: http.MethodGet, Path: "/groups/{groupId}/messages"}
	requestMigration = edge.Route{Name: "requestMigration", Method: http.MethodPost, Path: "/migrations", MaxBody: maxJSON}
	initMigration    = edge.Route{Name: "initMigration", Method: http.MethodPut, Path: "/migrations/{migrationId}/init", MaxBody: maxJSON}
	getMigration     = edge.Route{Name: "getMigration", Method: http.MethodGet, Path: "/migrations/{migrationId}"}
	abortMigration   = edge.Route{Name: "abortMigration", Method: http.MethodDelete, Path: "/migrations/{migrationId}"}
	confirmMigration = edge.Route{Name: "confirmMigration", Method: http.MethodPut, Path: "/migrations/{migrationId}/confirmation", MaxBody: maxJSON}
	putContent       = edge.Route{Name: "putContent", Method: http.MethodPut, Path: "/migrations/{migrationId}/content", RawBody: true}
	putAbort         = edge.Route{Name: "putAbort", Method: http.MethodPut, Path: "/migrations/{migrationId}/abort", MaxBody: maxJSON}
)

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
	routes := append(UserRoutes(func(*edge.Request) (api.API, error) { return svc, nil }, maxBind),
		contentRoute(svc, maxGroupState), abortRoute(svc))
	for i, rt := range routes {
		routes[i].Federation = true
		switch rt.Name {
		case getMigration.Name, confirmMigration.Name, showLineage.Name: // for users and for servers
		case putContent.Name, putAbort.Name:
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

// Resolve says which Delivery Service a request is for.
type Resolve func(r *edge.Request) (api.API, error)

// UserRoutes is what users can ask of a Delivery Service. maxBind is the limit in bytes of the body that binds a group.
func UserRoutes(resolve Resolve, maxBind int64) []edge.Route {
	bind := bindGroup
	bind.MaxBody = maxBind
	return []edge.Route{
		plain(reserveGroup, resolve, api.API.ReserveGroup),
		with(bind, resolve, edge.GroupID, edge.Decode[api.BindGroupRequest], api.API.BindGroup),
		of(getGroup, resolve, edge.GroupID, api.API.Group),
		of(getHost, resolve, edge.GroupID, api.API.Host),
		with(showLineage, resolve, edge.GroupID, edge.Decode[api.LineageRequest], api.API.ShowLineage),
		with(getTree, resolve, edge.GroupID, epoch, ratchetTree),
		with(submit, resolve, edge.GroupID, edge.Decode[api.SubmitRequest], api.API.Submit),
		with(getMessages, resolve, edge.GroupID, messagesQuery, api.API.Messages),
		plain(requestMigration, resolve, api.API.RequestMigration),
		with(initMigration, resolve, edge.MigrationID, edge.Decode[api.MigrationInitRequest], api.API.InitMigration),
		of(getMigration, resolve, edge.MigrationID, api.API.Migration),
		of(abortMigration, resolve, edge.MigrationID, api.API.AbortMigration),
		with(confirmMigration, resolve, edge.MigrationID, edge.Decode[api.SignedRequest], api.API.ConfirmMigration),
	}
}

// route serves a call on the Delivery Service that the request is for.
func route(rt edge.Route, resolve Resolve, call func(context.Context, api.API, *edge.Request) (any, error)) edge.Route {
	rt.Serve = func(ctx context.Context, r *edge.Request) (any, error) {
		api, err := resolve(r)
		if err != nil {
			return nil, err
		}
		return call(ctx, api, r)
	}
	return rt
}

// plain is a call that takes a body.
func plain[Q, A any](rt edge.Route, resolve Resolve, call func(api.API, context.Context, api.Caller, *Q) (A, error)) edge.Route {
	return route(rt, resolve, func(ctx context.Context, api api.API, r *edge.Request) (any, error) {
		q, err := edge.Decode[Q](r)
		if err != nil {
			return nil, err
		}
		return call(api, ctx, r.Caller, q)
	})
}

// of is a call on the group or migration that the path names.
func of[K, A any](rt edge.Route, resolve Resolve, key func(*edge.Request) (K, error),
	call func(api.API, context.Context, api.Caller, K) (A, error)) edge.Route {
	return route(rt, resolve, func(ctx context.Context, api api.API, r *edge.Request) (any, error) {
		k, err := key(r)
		if err != nil {
			return nil, err
		}
		return call(api, ctx, r.Caller, k)
	})
}

// with is a call on what the path names that takes a body or a query besides.
func with[K, Q, A any](rt edge.Route, resolve Resolve, key func(*edge.Request) (K, error), query func(*edge.Request) (Q, error),
	call func(api.API, context.Context, api.Caller, K, Q) (A, error)) edge.Route {
	return route(rt, resolve, func(ctx context.Context, api api.API, r *edge.Request) (any, error) {
		k, err := key(r)
		if err != nil {
			return nil, err
		}
		q, err := query(r)
		if err != nil {
			return nil, err
		}
		return call(api, ctx, r.Caller, k, q)
	})
}

func ratchetTree(api api.API, ctx context.Context, c api.Caller, groupID []byte, epoch uint64) (edge.Raw, error) {
	return api.RatchetTree(ctx, c, groupID, epoch)
}

func epoch(r *edge.Request) (uint64, error) {
	v, err := edge.Uint(r, "epoch")
	if err != nil {
		return 0, err
	}
	if v == nil {
		return 0, mimiport.Errorf("read query", mimiport.KindBadMessage, "epoch is missing")
	}
	return *v, nil
}

func messagesQuery(r *edge.Request) (q api.MessagesQuery, err error) {
	if q.Term, err = edge.Uint(r, "term"); err != nil {
		return q, err
	}
	from, err := edge.Uint(r, "from")
	if err != nil {
		return q, err
	}
	if from != nil {
		q.From = *from
	}
	limit, err := edge.Uint(r, "limit")
	if limit != nil {
		q.Limit = int(min(*limit, math.MaxInt32))
	}
	return q, err
}
