// Package adminapi is the API for operators. It shows and sets the policy, and shows the groups and migrations of this
// server. Some routes act on a group or a migration.
package adminapi

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
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
	Audit
	Drains
	Status(ctx context.Context) (*api.Status, error)
	Readers(ctx context.Context, roomID string) (*api.Readers, error)
	Health(ctx context.Context) error
	Policy(ctx context.Context) (policy.Policy, error)
	SetPolicy(ctx context.Context, patch json.RawMessage) (policy.Policy, error)
	AdminMigrations(
		ctx context.Context, f storage.MigrationFilter, after mimiport.MigrationID, limit int,
	) ([]*api.MigrationStatus, error)
	DropStaged(ctx context.Context, id mimiport.MigrationID) (*api.MigrationStatus, error)
	AdminMigration(ctx context.Context, id mimiport.MigrationID) (*api.MigrationStatus, error)
	AdminMessages(ctx context.Context, id mimiport.MigrationID) (*api.MigrationMessages, error)
	ListEvidence(
		ctx context.Context, f storage.EvidenceFilter, after storage.EvidenceKey, limit int,
	) ([]storage.Evidence, error)
}

// Groups has the calls of operators about groups.
type Groups interface {
	AdminGroups(
		ctx context.Context, f storage.GroupFilter, after []byte, limit int,
	) (groups []api.AdminGroup, total int, err error)
	AdminGroup(ctx context.Context, id []byte) (*api.AdminGroup, error)
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
		row("getStatus", http.MethodGet, "/status", 0, a.getStatus),
		row("getPolicy", http.MethodGet, "/policy", 0, a.getPolicy),
		row("putPolicy", http.MethodPut, "/policy", maxPolicy, a.recorded(storage.AuditPolicy, a.putPolicy)),
		row("listGroups", http.MethodGet, "/groups", 0, a.listGroups, "state", "room", "server", "after", "limit"),
		row("showGroup", http.MethodGet, "/groups/{groupId}", 0, a.showGroup),
		row("listEvidence", http.MethodGet, "/groups/{groupId}/evidence", 0, a.listEvidence),
		row("listAllEvidence", http.MethodGet, "/evidence", 0, a.listAllEvidence, "kind", "group_id", "after", "limit"),
		row("listReports", http.MethodGet, "/groups/{groupId}/reports", 0, a.listReports),
		row("getGroupDrift", http.MethodGet, "/groups/{groupId}/drift", 0, a.drift),
		row("removeLeaves", http.MethodPost, "/groups/{groupId}/removals", 0, a.recorded(storage.AuditRemove, a.expel)),
		row("reclaimGroup", http.MethodPost, "/groups/{groupId}/reclaim", maxLineage,
			a.recorded(storage.AuditReclaim, a.reclaim)),
		row("yieldGroup", http.MethodPost, "/groups/{groupId}/yield", maxLineage, a.recorded(storage.AuditYield, a.yield)),
		row("recoverGroup", http.MethodPost, "/groups/{groupId}/recover", maxRecover,
			a.recorded(storage.AuditRecover, a.recoverGroup)),
		row("listMigrations", http.MethodGet, "/migrations", 0, a.listMigrations,
			"group_id", "role", "state", "user", "since", "after", "limit"),
		row("showMigration", http.MethodGet, "/migrations/{migrationId}", 0, a.showMigration),
		row("showMessages", http.MethodGet, "/migrations/{migrationId}/messages", 0, a.showMessages),
		row("dropMigration", http.MethodDelete, "/migrations/{migrationId}", 0,
			a.recorded(storage.AuditDrop, a.dropMigration)),
		row("listReaders", http.MethodGet, "/rooms/{roomId}/readers", 0, a.listReaders),
		row("getDrain", http.MethodGet, "/drain", 0, a.getDrain),
		row("startDrain", http.MethodPut, "/drain", maxDrain, a.recorded(storage.AuditDrain, a.startDrain)),
		row("stopDrain", http.MethodDelete, "/drain", 0, a.recorded(storage.AuditDrain, a.stopDrain)),
		row("listDrainGroups", http.MethodGet, "/drain/groups", 0, a.listDrainGroups, "state", "after", "limit"),
		row("planDrain", http.MethodGet, "/drain/plan", 0, a.planDrain, "target", "after", "limit"),
		row("listAudit", http.MethodGet, "/audit", 0, a.listAudit, "after", "limit"),
	}
}

// HealthRoutes makes the route that says whether this server can work now. Anybody may ask.
func HealthRoutes(svc Service) []edge.Route {
	a := &admin{svc}
	return []edge.Route{row("getHealth", http.MethodGet, "/health", 0, a.getHealth)}
}

type serve = func(context.Context, *edge.Request) (any, error)

// row makes a route. params are the parameters that a query may have.
func row(name, method, path string, maxBody int64, answer serve, params ...string) edge.Route {
	return edge.Route{
		Route: api.Route{Name: name, Method: method, Path: path, MaxBody: maxBody},
		Serve: func(ctx context.Context, r *edge.Request) (any, error) {
			if err := requireParams(r, params); err != nil {
				return nil, err
			}
			return answer(ctx, r)
		},
	}
}

type admin struct{ svc Service }

func (a *admin) getStatus(ctx context.Context, _ *edge.Request) (any, error) {
	return a.svc.Status(ctx)
}

// health is the answer of the health route.
type health struct {
	Healthy bool   `json:"healthy"`
	Reason  string `json:"reason,omitempty"`
}

func (a *admin) getHealth(ctx context.Context, _ *edge.Request) (any, error) {
	if err := a.svc.Health(ctx); err != nil {
		return nil, &edge.Denied{Status: http.StatusServiceUnavailable, Body: health{Reason: err.Error()}}
	}
	return health{Healthy: true}, nil
}

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
	return a.svc.AdminGroup(ctx, id)
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

func (a *admin) listReaders(ctx context.Context, r *edge.Request) (any, error) {
	return a.svc.Readers(ctx, r.Vars["roomId"])
}

func (a *admin) showMigration(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.MigrationID(r)
	if err != nil {
		return nil, err
	}
	return a.svc.AdminMigration(ctx, id)
}

func (a *admin) showMessages(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.MigrationID(r)
	if err != nil {
		return nil, err
	}
	return a.svc.AdminMessages(ctx, id)
}

func (a *admin) dropMigration(ctx context.Context, r *edge.Request) (any, error) {
	id, err := edge.MigrationID(r)
	if err != nil {
		return nil, err
	}
	return a.svc.DropStaged(ctx, id)
}
