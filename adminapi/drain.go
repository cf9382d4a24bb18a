package adminapi

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// maxDrain is the largest size of a DrainRequest in bytes.
const maxDrain = 16 << 10

// Drains has the calls of operators about the drain of this server.
type Drains interface {
	// Drain returns the state of the last drain.
	Drain(ctx context.Context) (*api.Drain, error)
	StartDrain(ctx context.Context, req *api.DrainRequest) (*api.Drain, error)
	// StopDrain fails with KindConflict if there is no drain to stop.
	StopDrain(ctx context.Context) (*api.Drain, error)
	// DrainGroups lists at most limit groups of the last drain, by id, after a given id. No states mean all states. total
	// counts all that the states select.
	DrainGroups(
		ctx context.Context, states []api.DrainGroupState, after []byte, limit int,
	) (groups []api.DrainGroup, total int, err error)
	// PlanDrain says who can move which group to which of the targets. It asks the targets and no member, and changes
	// nothing. It lists at most limit groups, by id, after a given id. total counts all groups that a drain would move.
	PlanDrain(
		ctx context.Context, targets []string, after []byte, limit int,
	) (plan []api.DrainPlan, total int, err error)
}

func (a *admin) getDrain(ctx context.Context, _ *edge.Request) (any, error) {
	return a.svc.Drain(ctx)
}

func (a *admin) startDrain(ctx context.Context, r *edge.Request) (any, error) {
	req, err := edge.Decode[api.DrainRequest](r)
	if err != nil {
		return nil, err
	}
	return a.svc.StartDrain(ctx, req)
}

func (a *admin) stopDrain(ctx context.Context, _ *edge.Request) (any, error) {
	return a.svc.StopDrain(ctx)
}

func (a *admin) listDrainGroups(ctx context.Context, r *edge.Request) (any, error) {
	states, err := choices(r, "state", api.DrainGroupStates)
	if err != nil {
		return nil, err
	}
	id := func(g api.DrainGroup) api.GroupID { return g.GroupID }
	return listByGroup(r, id, func(after []byte, limit int) ([]api.DrainGroup, int, error) {
		return a.svc.DrainGroups(ctx, states, after, limit)
	})
}

func (a *admin) planDrain(ctx context.Context, r *edge.Request) (any, error) {
	id := func(g api.DrainPlan) api.GroupID { return g.GroupID }
	return listByGroup(r, id, func(after []byte, limit int) ([]api.DrainPlan, int, error) {
		return a.svc.PlanDrain(ctx, r.Query["target"], after, limit)
	})
}
