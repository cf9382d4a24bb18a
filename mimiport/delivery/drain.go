package delivery

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// drains empties this server.
type drains struct{ *core }

// Drain implements adminapi.Drains.
func (s drains) Drain(context.Context) (*api.Drain, error) {
	d := &api.Drain{State: api.DrainNone, Targets: []string{}, Away: []api.AwayServer{},
		Groups: make(map[api.DrainGroupState]int)}
	for _, state := range api.DrainGroupStates {
		d.Groups[state] = 0
	}
	return d, nil
}

// StartDrain implements adminapi.Drains.
func (s drains) StartDrain(context.Context, *api.DrainRequest) (*api.Drain, error) {
	return nil, mimiport.Errorf("start drain", mimiport.KindUnrecognized, "not yet")
}

// StopDrain implements adminapi.Drains.
func (s drains) StopDrain(context.Context) (*api.Drain, error) {
	return nil, mimiport.Errorf("stop drain", mimiport.KindConflict, "there is no drain")
}

// DrainGroups implements adminapi.Drains.
func (s drains) DrainGroups(
	context.Context, []api.DrainGroupState, []byte, int,
) (groups []api.DrainGroup, total int, err error) {
	return nil, 0, nil
}

// PlanDrain implements adminapi.Drains.
func (s drains) PlanDrain(
	context.Context, []string, []byte, int,
) (plan []api.DrainPlan, total int, err error) {
	return nil, 0, nil
}
