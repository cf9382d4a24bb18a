package adminapi

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Page is one page of a list. Next is the value of "after" for the next page. The last page has none.
type Page[T any] struct {
	Items   []T    `json:"items"`
	Next    string `json:"next,omitempty"`
	Total   *int   `json:"total,omitempty"`   // how many items all pages have; only of groups
	Limit   int    `json:"limit"`             // the most items of this page
	Clamped bool   `json:"clamped,omitempty"` // the request asked for more than Limit
}

// maxPage is the largest number of items on a page, and the number when the request has no limit.
const maxPage = 100

// newPage makes an empty page of the size that the request asks for.
func newPage[T any](r *edge.Request) (Page[T], error) {
	p := Page[T]{Limit: maxPage}
	asked, err := edge.Uint(r, "limit")
	switch {
	case err != nil || asked == nil:
		return p, err
	case *asked == 0:
		return p, badQuery("limit: 0 is not a number from 1 to %d", maxPage)
	}
	p.Limit, p.Clamped = int(min(*asked, maxPage)), *asked > maxPage
	return p, nil
}

// fill adds the items. A page with fewer than limit items is the last one. A full page may also be the last.
func (p Page[T]) fill(items []T, id func(T) string) Page[T] {
	p.Items = append([]T{}, items...)
	if len(items) == p.Limit {
		p.Next = id(items[p.Limit-1])
	}
	return p
}

func badQuery(format string, args ...any) error {
	return mimiport.Errorf("read query", mimiport.KindBadMessage, format, args...)
}

// requireParams fails for a parameter that a route does not have. Matrix lets a client put its token into the query.
func requireParams(r *edge.Request, permitted []string) error {
	for _, name := range slices.Sorted(maps.Keys(r.Query)) {
		if name == "access_token" || slices.Contains(permitted, name) {
			continue
		}
		if len(permitted) == 0 {
			return badQuery("%q is no parameter of this route: it has none", mimiport.Clip(name))
		}
		return badQuery("%q is no parameter of this route: it has %s", mimiport.Clip(name), strings.Join(permitted, ", "))
	}
	return nil
}

// choices reads a parameter that may come several times, each time with one of the permitted values.
func choices[T ~string](r *edge.Request, name string, permitted []T) (chosen []T, err error) {
	for _, value := range r.Query[name] {
		if !slices.Contains(permitted, T(value)) {
			var all []string
			for _, p := range permitted {
				all = append(all, string(p))
			}
			return nil, badQuery("%s: %q is not one of %s", name, mimiport.Clip(value), strings.Join(all, ", "))
		}
		chosen = append(chosen, T(value))
	}
	return chosen, nil
}

func (a *admin) listGroups(ctx context.Context, r *edge.Request) (any, error) {
	f, err := groupFilter(r)
	if err != nil {
		return nil, err
	}
	id := func(g api.AdminGroup) api.GroupID { return g.GroupID }
	return listByGroup(r, id, func(after []byte, limit int) ([]api.AdminGroup, int, error) {
		return a.svc.AdminGroups(ctx, f, after, limit)
	})
}

// listByGroup makes a page of a list that is in the order of group ids, with its total.
func listByGroup[T any](
	r *edge.Request, id func(T) api.GroupID, find func(after []byte, limit int) (items []T, total int, err error),
) (any, error) {
	p, err := newPage[T](r)
	if err != nil {
		return nil, err
	}
	after, err := bytesParam(r, "after")
	if err != nil {
		return nil, err
	}
	items, total, err := find(after, p.Limit)
	if err != nil {
		return nil, err
	}
	p.Total = &total
	return p.fill(items, func(item T) string { return id(item).String() }), nil
}

// groupFilter reads room, server and any number of states.
func groupFilter(r *edge.Request) (f storage.GroupFilter, err error) {
	if f.States, err = choices(r, "state", migration.GroupStates); err != nil {
		return f, err
	}
	if f.RoomID, err = edge.Param(r, "room"); err != nil {
		return f, err
	}
	f.Server, err = edge.Param(r, "server")
	return f, err
}

func (a *admin) listMigrations(ctx context.Context, r *edge.Request) (any, error) {
	p, err := newPage[*api.MigrationStatus](r)
	if err != nil {
		return nil, err
	}
	f, err := migrationFilter(r)
	if err != nil {
		return nil, err
	}
	after, err := migrationParam(r, "after")
	if err != nil {
		return nil, err
	}
	rows, err := a.svc.AdminMigrations(ctx, f, after, p.Limit)
	if err != nil {
		return nil, err
	}
	return p.fill(rows, func(m *api.MigrationStatus) string { return m.MigrationID }), nil
}

// migrationFilter reads group_id, role, user, since (milliseconds since 1970) and any number of states.
func migrationFilter(r *edge.Request) (f storage.MigrationFilter, err error) {
	if f.GroupID, err = bytesParam(r, "group_id"); err != nil {
		return f, err
	}
	if _, err := edge.Param(r, "role"); err != nil {
		return f, err
	}
	roles, err := choices(r, "role", migration.Roles)
	if err != nil {
		return f, err
	}
	if len(roles) > 0 {
		f.Role = roles[0]
	}
	if f.User, err = edge.Param(r, "user"); err != nil {
		return f, err
	}
	since, err := edge.Uint(r, "since")
	if err != nil {
		return f, err
	}
	if since != nil {
		f.Since = time.UnixMilli(int64(*since))
	}
	f.States, err = choices(r, "state", migration.States)
	return f, err
}

func bytesParam(r *edge.Request, name string) ([]byte, error) {
	s, err := edge.Param(r, name)
	if err != nil || s == "" {
		return nil, err
	}
	data, err := mimiport.ParseBase64URL(s)
	if err != nil {
		return nil, badQuery("%s: %q is not an id in unpadded base64url", name, mimiport.Clip(s))
	}
	return data, nil
}

func migrationParam(r *edge.Request, name string) (id mimiport.MigrationID, err error) {
	data, err := bytesParam(r, name)
	if err != nil || data == nil {
		return id, err
	}
	if len(data) != len(id) {
		return id, badQuery("%s: the id has %d bytes, not %d", name, len(data), len(id))
	}
	return mimiport.MigrationID(data), nil
}
