// Package adminapi is the API for operators. It shows and sets the policy, and shows the groups and migrations of this
// server. Some routes act on a group or a migration.
package adminapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// PathPrefix is the path under which Routes are mounted.
const PathPrefix = "/_dendrite/admin/mimiport"

// maxPolicy is the largest size of a policy in bytes, with its lists of servers.
const maxPolicy = 1 << 20

// maxRecover is the largest size of a group's public state with its tree in bytes, in base64.
const maxRecover = 90 << 20

// maxLineage is the largest size of a lineage in bytes, in base64.
const maxLineage = 1 << 20

// Leaves has the calls of operators about the leaves of a group.
type Leaves interface {
	Drift(ctx context.Context, c api.Caller, id []byte) (*api.Drift, error)
	Expel(ctx context.Context, id []byte) (*api.Expelled, error)
}

// Service has all calls of operators on a Delivery Service. *delivery.Service implements it.
type Service interface {
	Leaves
	Groups
	Policy(ctx context.Context) (policy.Policy, error)
	SetPolicy(ctx context.Context, patch json.RawMessage) (policy.Policy, error)
	AdminMigrations(
		ctx context.Context, f storage.MigrationFilter, after mimiport.MigrationID, limit int,
	) ([]*api.MigrationStatus, error)
	DropStaged(ctx context.Context, id mimiport.MigrationID) (*api.MigrationStatus, error)
	AdminMigration(ctx context.Context, id mimiport.MigrationID) (*api.MigrationStatus, error)
}

// Groups has the calls of operators about groups.
type Groups interface {
	AdminGroups(ctx context.Context, after []byte, limit int) ([]storage.Group, error)
	AdminGroup(ctx context.Context, id []byte) (*storage.Group, error)
	AdminEvidence(ctx context.Context, id []byte) ([]storage.Evidence, error)
	AdminReports(ctx context.Context, id []byte) ([]api.Report, error)
	Reclaim(ctx context.Context, id []byte, req *api.LineageRequest) (*api.HostResponse, error)
	Yield(ctx context.Context, id []byte, req *api.LineageRequest) (*api.HostResponse, error)
	Recover(ctx context.Context, id []byte, req *api.RecoverRequest) (*api.HostResponse, error)
	Losses
}

// Losses checks the word of an operator that another server is lost. Each call fails with KindConflict if the word does
// not fit what that server answers.
type Losses interface {
	RequireTargetLost(ctx context.Context, id []byte, word api.Lost) error
	RequireHostLost(ctx context.Context, id, lineage []byte, word api.Lost) error
}

// Routes makes the admin API of svc. The Authenticate function of these routes must accept only administrators.
func Routes(svc Service) []edge.Route {
	a := &admin{svc}
	return []edge.Route{
		row("getPolicy", http.MethodGet, "/policy", 0, a.getPolicy),
		row("putPolicy", http.MethodPut, "/policy", maxPolicy, a.putPolicy),
		row("listGroups", http.MethodGet, "/groups", 0, a.listGroups),
		row("showGroup", http.MethodGet, "/groups/{groupId}", 0, a.showGroup),
		row("listEvidence", http.MethodGet, "/groups/{groupId}/evidence", 0, a.listEvidence),
		row("listReports", http.MethodGet, "/groups/{groupId}/reports", 0, a.listReports),
		row("getGroupDrift", http.MethodGet, "/groups/{groupId}/drift", 0, a.drift),
		row("removeLeaves", http.MethodPost, "/groups/{groupId}/removals", 0, a.expel),
		row("reclaimGroup", http.MethodPost, "/groups/{groupId}/reclaim", maxLineage, a.reclaim),
		row("yieldGroup", http.MethodPost, "/groups/{groupId}/yield", maxLineage, a.yield),
		row("recoverGroup", http.MethodPost, "/groups/{groupId}/recover", maxRecover, a.recoverGroup),
		row("listMigrations", http.MethodGet, "/migrations", 0, a.listMigrations),
		row("showMigration", http.MethodGet, "/migrations/{migrationId}", 0, a.showMigration),
		row("dropMigration", http.MethodDelete, "/migrations/{migrationId}", 0, a.dropMigration),
	}
}

func row(name, method, path string, maxBody int64, serve func(context.Context, *edge.Request) (any, error)) edge.Route {
	return edge.Route{Route: api.Route{Name: name, Method: method, Path: path, MaxBody: maxBody}, Serve: serve}
}

type admin struct{ svc Service }

func (a *admin) getPolicy(ctx context.Context, _ *edge.Request) (any, error) {
	return a.svc.Policy(ctx)
}

func (a *admin) putPolicy(ctx context.Context, r *edge.Request) (any, error) {
	patch, err := edge.Decode[json.RawMessage](r)
	if err != nil {
		return nil, err
	}
	return a.svc.SetPolicy(ctx, *patch)
}

func (a *admin) showGroup(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.GroupID(r)
	if err != nil {
		return nil, err
	}
	g, err := a.svc.AdminGroup(ctx, id)
	if err != nil {
		return nil, err
	}
	return view(g), nil
}

// EvidenceList has all evidence about a group.
type EvidenceList struct {
	Items []Evidence `json:"items"`
}

func (a *admin) listEvidence(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.GroupID(r)
	if err != nil {
		return nil, err
	}
	kept, err := a.svc.AdminEvidence(ctx, id)
	if err != nil {
		return nil, err
	}
	list := EvidenceList{Items: make([]Evidence, len(kept))}
	for i := range kept {
		list.Items[i] = viewEvidence(&kept[i])
	}
	return list, nil
}

// ReportList has all reports of members about a group.
type ReportList struct {
	Items []api.Report `json:"items"`
}

func (a *admin) listReports(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.GroupID(r)
	if err != nil {
		return nil, err
	}
	reports, err := a.svc.AdminReports(ctx, id)
	if err != nil {
		return nil, err
	}
	return ReportList{append([]api.Report{}, reports...)}, nil
}

func (a *admin) drift(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.GroupID(r)
	if err != nil {
		return nil, err
	}
	return a.svc.Drift(ctx, api.Caller{Admin: true}, id)
}

func (a *admin) expel(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.GroupID(r)
	if err != nil {
		return nil, err
	}
	return a.svc.Expel(ctx, id)
}

// ReclaimRequest is the body of reclaim. The lineage is for a claim that this server contests. Without a lineage, the
// operator says that the target of a group that has moved away is lost.
type ReclaimRequest struct {
	api.LineageRequest
	TargetIsLost      bool `json:"target_is_lost,omitempty"`
	AlthoughItAnswers bool `json:"although_it_answers,omitempty"`
}

// RecoverRequest is the body of recover. The operator says that the group's host is lost.
type RecoverRequest struct {
	api.RecoverRequest
	HostIsLost        bool `json:"host_is_lost,omitempty"`
	AlthoughItAnswers bool `json:"although_it_answers,omitempty"`
}

// reclaim accepts a request with or without a body.
func (a *admin) reclaim(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.GroupID(r)
	if err != nil {
		return nil, err
	}
	body, err := r.Body()
	if err != nil {
		return nil, err
	}
	req := new(ReclaimRequest)
	if len(body) > 0 {
		if req, err = edge.Decode[ReclaimRequest](r); err != nil {
			return nil, err
		}
	}
	if len(req.Lineage) == 0 {
		word := api.Lost{Said: req.TargetIsLost, AlthoughItAnswers: req.AlthoughItAnswers}
		if err := a.svc.RequireTargetLost(ctx, id, word); err != nil {
			return nil, err
		}
	}
	return a.svc.Reclaim(ctx, id, &req.LineageRequest)
}

func (a *admin) yield(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.GroupID(r)
	if err != nil {
		return nil, err
	}
	req, err := edge.Decode[api.LineageRequest](r)
	if err != nil {
		return nil, err
	}
	return a.svc.Yield(ctx, id, req)
}

func (a *admin) recoverGroup(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.GroupID(r)
	if err != nil {
		return nil, err
	}
	req, err := edge.Decode[RecoverRequest](r)
	if err != nil {
		return nil, err
	}
	word := api.Lost{Said: req.HostIsLost, AlthoughItAnswers: req.AlthoughItAnswers}
	if err := a.svc.RequireHostLost(ctx, id, req.Lineage, word); err != nil {
		return nil, err
	}
	return a.svc.Recover(ctx, id, &req.RecoverRequest)
}

func (a *admin) showMigration(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.MigrationID(r)
	if err != nil {
		return nil, err
	}
	return a.svc.AdminMigration(ctx, id)
}

func (a *admin) dropMigration(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.MigrationID(r)
	if err != nil {
		return nil, err
	}
	return a.svc.DropStaged(ctx, id)
}

// Page is one page of a list. Next is the value of "after" for the next page. The last page has none.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// maxPage is the largest number of items on a page, and the number when the request has no limit.
const maxPage = 100

func pageSize(r *edge.Request) (int, error) {
	limit, err := edge.Uint(r, "limit")
	if err != nil || limit == nil || *limit == 0 {
		return maxPage, err
	}
	return int(min(*limit, maxPage)), nil
}

// page makes a page. A page with fewer than limit items is the last one. A full page may also be the last.
func page[T any](items []T, limit int, id func(T) string) Page[T] {
	p := Page[T]{Items: items}
	if len(items) == limit {
		p.Next = id(items[limit-1])
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
	rows, err := a.svc.AdminGroups(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	groups := make([]Group, len(rows))
	for i := range rows {
		groups[i] = view(&rows[i])
	}
	return page(groups, limit, func(g Group) string { return g.GroupID.String() }), nil
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
	after, err := migrationParam(r, "after")
	if err != nil {
		return nil, err
	}
	rows, err := a.svc.AdminMigrations(ctx, f, after, limit)
	if err != nil {
		return nil, err
	}
	return page(rows, limit, func(m *api.MigrationStatus) string { return m.MigrationID }), nil
}

// filter reads group_id, role, user, since (milliseconds since 1970) and any number of states. An unknown role or state
// selects nothing.
func filter(r *edge.Request) (f storage.MigrationFilter, err error) {
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
	return mimiport.ParseBase64URL(s)
}

func migrationParam(r *edge.Request, name string) (id mimiport.MigrationID, err error) {
	s, err := edge.Param(r, name)
	if err != nil || s == "" {
		return id, err
	}
	return mimiport.ParseMigrationID(s)
}
