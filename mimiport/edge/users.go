package edge

import (
	"context"
	"math"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// Resolve returns the Delivery Service that a request is for.
type Resolve func(r *Request) (api.API, error)

// UserRoutes makes the routes for users of a Delivery Service. maxBind is the largest body that binds a group, in
// bytes.
func UserRoutes(resolve Resolve, maxBind int64) []Route {
	return []Route{
		plain(api.ReserveGroup, resolve, api.API.ReserveGroup),
		bindRoute(resolve, maxBind),
		of(api.GetGroup, resolve, GroupID, api.API.Group),
		of(api.CloseGroup, resolve, GroupID, api.API.CloseGroup),
		with(api.ReportCommit, resolve, GroupID, Decode[api.ReportRequest], api.API.Report),
		of(api.GetHost, resolve, GroupID, api.API.Host),
		with(api.ShowLineage, resolve, GroupID, Decode[api.LineageRequest], api.API.ShowLineage),
		of(api.GetDrift, resolve, GroupID, api.API.Drift),
		with(api.GetTree, resolve, GroupID, epoch, ratchetTree),
		with(api.Submit, resolve, GroupID, Decode[api.SubmitRequest], api.API.Submit),
		with(api.GetMessages, resolve, GroupID, messagesQuery, api.API.Messages),
		plain(api.RequestMigration, resolve, api.API.RequestMigration),
		with(api.InitMigration, resolve, MigrationID, Decode[api.MigrationInitRequest], api.API.InitMigration),
		of(api.GetMigration, resolve, MigrationID, api.API.Migration),
		of(api.AbortMigration, resolve, MigrationID, api.API.AbortMigration),
		plain(api.PutLastResort, resolve, api.API.PutLastResort),
		plain(api.ClaimLastResorts, resolve, api.API.ClaimLastResorts),
		with(api.ConfirmMigration, resolve, MigrationID, Decode[api.SignedRequest], api.API.ConfirmMigration),
	}
}

func bindRoute(resolve Resolve, maxBody int64) Route {
	rt := with(api.BindGroup, resolve, GroupID, Decode[api.BindGroupRequest], api.API.BindGroup)
	rt.MaxBody = maxBody
	rt.Admit = func(ctx context.Context, r *Request) error {
		ds, err := resolve(r)
		if err != nil {
			return err
		}
		id, err := GroupID(r)
		if err != nil {
			return err
		}
		return ds.RequireReserver(ctx, r.Caller, id)
	}
	return rt
}

// route serves a call on the Delivery Service that the request is for.
func route(at api.Route, resolve Resolve, call func(context.Context, api.API, *Request) (any, error)) Route {
	return Route{Route: at, Serve: func(ctx context.Context, r *Request) (any, error) {
		ds, err := resolve(r)
		if err != nil {
			return nil, err
		}
		return call(ctx, ds, r)
	}}
}

// plain makes the route of a call that takes a body.
func plain[Q, A any](
	at api.Route, resolve Resolve, call func(api.API, context.Context, api.Caller, *Q) (A, error),
) Route {
	return route(at, resolve, func(ctx context.Context, ds api.API, r *Request) (any, error) {
		q, err := Decode[Q](r)
		if err != nil {
			return nil, err
		}
		return call(ds, ctx, r.Caller, q)
	})
}

// of makes the route of a call on the group or migration in the path.
func of[K, A any](at api.Route, resolve Resolve, key func(*Request) (K, error),
	call func(api.API, context.Context, api.Caller, K) (A, error)) Route {
	return route(at, resolve, func(ctx context.Context, ds api.API, r *Request) (any, error) {
		k, err := key(r)
		if err != nil {
			return nil, err
		}
		return call(ds, ctx, r.Caller, k)
	})
}

// with makes the route of a call on the group or migration in the path that also takes a body or a query.
func with[K, Q, A any](at api.Route, resolve Resolve, key func(*Request) (K, error), query func(*Request) (Q, error),
	call func(api.API, context.Context, api.Caller, K, Q) (A, error)) Route {
	return route(at, resolve, func(ctx context.Context, ds api.API, r *Request) (any, error) {
		k, err := key(r)
		if err != nil {
			return nil, err
		}
		q, err := query(r)
		if err != nil {
			return nil, err
		}
		return call(ds, ctx, r.Caller, k, q)
	})
}

func ratchetTree(ds api.API, ctx context.Context, c api.Caller, groupID []byte, epoch uint64) (Raw, error) {
	return ds.RatchetTree(ctx, c, groupID, epoch)
}

func epoch(r *Request) (uint64, error) {
	v, err := Uint(r, "epoch")
	if err != nil {
		return 0, err
	}
	if v == nil {
		return 0, mimiport.Errorf("read query", mimiport.KindBadMessage, "epoch is missing")
	}
	return *v, nil
}

func messagesQuery(r *Request) (q api.MessagesQuery, err error) {
	if q.Term, err = Uint(r, "term"); err != nil {
		return q, err
	}
	from, err := Uint(r, "from")
	if err != nil {
		return q, err
	}
	if from != nil {
		q.From = *from
	}
	limit, err := Uint(r, "limit")
	if limit != nil {
		q.Limit = int(min(*limit, math.MaxInt32))
	}
	return q, err
}
