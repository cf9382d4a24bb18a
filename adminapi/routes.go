// Package adminapi is the API for operators: the policy in force, and what this server hosts, offers and has moved.
package adminapi

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// PathPrefix is where Routes are mounted.
const PathPrefix = "/_dendrite/admin/mimiport"

// maxPolicy is the limit in bytes of a policy with its lists of servers.
const maxPolicy = 1 << 20

// Policies keeps the policy in force, as *delivery.Service does.
type Policies interface {
	Policy(ctx context.Context) (delivery.Policy, error)
	SetPolicy(ctx context.Context, patch json.RawMessage) (delivery.Policy, error)
}

// Records are the stored groups and migrations, as in delivery.Store.
type Records interface {
	Group(ctx context.Context, id []byte) (*delivery.Group, error)
	Groups(ctx context.Context, after []byte, limit int) ([]delivery.Group, error)
	Migration(ctx context.Context, id mimiport.MigrationID) (*migration.Migration, error)
	Migrations(ctx context.Context, f delivery.MigrationFilter, after mimiport.MigrationID, limit int) ([]migration.Migration, error)
}

// Routes is the admin API. Authenticate must let nobody but administrators pass.
func Routes(policies Policies, records Records) []edge.Route {
	a := &admin{policies, records}
	return []edge.Route{
		{Name: "getPolicy", Method: http.MethodGet, Path: "/policy", Serve: a.getPolicy},
		{Name: "putPolicy", Method: http.MethodPut, Path: "/policy", MaxBody: maxPolicy, Serve: a.putPolicy},
		{Name: "listGroups", Method: http.MethodGet, Path: "/groups", Serve: a.listGroups},
		{Name: "showGroup", Method: http.MethodGet, Path: "/groups/{groupId}", Serve: a.showGroup},
		{Name: "listMigrations", Method: http.MethodGet, Path: "/migrations", Serve: a.listMigrations},
		{Name: "showMigration", Method: http.MethodGet, Path: "/migrations/{migrationId}", Serve: a.showMigration},
	}
}

type admin struct {
	policies Policies
	records  Records
}

func (a *admin) getPolicy(ctx context.Context, _ *edge.Request) (any, error) {
	return a.policies.Policy(ctx)
}

func (a *admin) putPolicy(ctx context.Context, r *edge.Request) (any, error) {
	patch, err := edge.Decode[json.RawMessage](r)
	if err != nil {
		return nil, err
	}
	return a.policies.SetPolicy(ctx, *patch)
}

func (a *admin) showGroup(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.GroupID(r)
	if err != nil {
		return nil, err
	}
	g, err := a.records.Group(ctx, id)
	if errors.Is(err, delivery.ErrNotFound) {
		return nil, mimiport.Errorf("show group", mimiport.KindUnknownGroup, "no such group here")
	}
	if err != nil {
		return nil, err
	}
	return viewGroup(g), nil
}

func (a *admin) showMigration(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.MigrationID(r)
	if err != nil {
		return nil, err
	}
	m, err := a.records.Migration(ctx, id)
	if errors.Is(err, delivery.ErrNotFound) {
		return nil, mimiport.Errorf("show migration", mimiport.KindUnknownMigration, "no migration %s here", id)
	}
	if err != nil {
		return nil, err
	}
	return viewMigration(m), nil
}

// Page is a piece of a list. Next is what to ask for as "after"; it is absent after the last piece.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// maxPage is how many items a page has at most, and where the request does not say.
const maxPage = 100

func pageSize(r *edge.Request) (int, error) {
	limit, err := edge.Uint(r, "limit")
	if err != nil || limit == nil || *limit == 0 {
		return maxPage, err
	}
	return int(min(*limit, maxPage)), nil
}

// page shows the rows; a full one may not be the last.
func page[R, T any](rows []R, limit int, view func(*R) T, id func(*R) string) Page[T] {
	p := Page[T]{Items: make([]T, len(rows))}
	for i := range rows {
		p.Items[i] = view(&rows[i])
	}
	if len(rows) == limit {
		p.Next = id(&rows[limit-1])
	}
	return p
}

func (a *admin) listGroups(ctx context.Context, r *edge.Request) (any, error) {
	limit, err := pageSize(r)
	if err != nil {
		return nil, err
	}
	after, err := bytesParam(r, "after")
	if err != nil {
		return nil, err
	}
	rows, err := a.records.Groups(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	return page(rows, limit, viewGroup, func(g *delivery.Group) string { return base64.RawURLEncoding.EncodeToString(g.ID) }), nil
}

func (a *admin) listMigrations(ctx context.Context, r *edge.Request) (any, error) {
	limit, err := pageSize(r)
	if err != nil {
		return nil, err
	}
	f, err := filter(r)
	if err != nil {
		return nil, err
	}
	var after mimiport.MigrationID
	if s, err := edge.Param(r, "after"); err != nil {
		return nil, err
	} else if s != "" {
		if after, err = mimiport.ParseMigrationID(s); err != nil {
			return nil, err
		}
	}
	rows, err := a.records.Migrations(ctx, f, after, limit)
	if err != nil {
		return nil, err
	}
	return page(rows, limit, viewMigration, func(m *migration.Migration) string { return m.ID.String() }), nil
}

// filter reads group_id, role, user, since (milliseconds since 1970) and any number of states. A role or state that there is
// not selects nothing.
func filter(r *edge.Request) (f delivery.MigrationFilter, err error) {
	if f.GroupID, err = bytesParam(r, "group_id"); err != nil {
		return f, err
	}
	role, err := edge.Param(r, "role")
	if err != nil {
		return f, err
	}
	f.Role = migration.Role(role)
	if f.User, err = edge.Param(r, "user"); err != nil {
		return f, err
	}
	since, err := edge.Uint(r, "since")
	if since != nil {
		f.Since = time.UnixMilli(int64(*since))
	}
	for _, s := range r.Query["state"] {
		f.States = append(f.States, migration.State(s))
	}
	return f, err
}

func bytesParam(r *edge.Request, name string) ([]byte, error) {
	s, err := edge.Param(r, name)
	if err != nil || s == "" {
		return nil, err
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, mimiport.Errorf("read query", mimiport.KindBadMessage, "%s is not base64url", name)
	}
	return b, nil
}
