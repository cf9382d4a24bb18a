package adminapi

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Audit has the audit log.
type Audit interface {
	// Record keeps an act in the audit log: the entry before the act, and its end after it. Without the entry there is no
	// act.
	Record(ctx context.Context, e storage.AuditEntry, act func() (after any, err error)) error
	AuditLog(ctx context.Context, before storage.AuditID, limit int) ([]api.AuditEntry, error)
}

// recorded keeps an operator's act in the audit log, with the states before and after it.
func (a *admin) recorded(action storage.AuditAction, act serve) serve {
	return func(ctx context.Context, r *edge.Request) (answer any, err error) {
		e := storage.AuditEntry{Actor: r.Caller.UserID, Action: action}
		if r.Vars["groupId"] != "" {
			if e.GroupID, err = edge.GroupID(r); err != nil {
				return nil, err
			}
		}
		if r.Vars["migrationId"] != "" {
			if e.Migration, err = edge.MigrationID(r); err != nil {
				return nil, err
			}
		}
		before, err := a.state(ctx, &e)
		if err != nil {
			return nil, err
		}
		if before != nil {
			if e.Before, err = json.Marshal(before); err != nil {
				return nil, err
			}
		}
		err = a.svc.Record(ctx, e, func() (any, error) {
			if answer, err = act(ctx, r); err != nil {
				return nil, err
			}
			after, failure := a.state(ctx, &e)
			if failure != nil { // the act has succeeded all the same
				return state{"unknown": mimiport.Clip(failure.Error())}, nil
			}
			return after, nil
		})
		return answer, err
	}
}

// state is a state in the audit log: of the policy, the drain, a group or a migration. It is nil for a group that is
// not here.
type state map[string]any

// state returns the present state of the subject of an entry.
func (a *admin) state(ctx context.Context, e *storage.AuditEntry) (state, error) {
	switch {
	case e.Action == storage.AuditDrain:
		d, err := a.svc.Drain(ctx)
		if err != nil {
			return nil, err
		}
		return state{
			"state": d.State, "targets": d.Targets, "rate_per_minute": d.Rate, "deadline_at": d.Deadline, "left": d.Left,
		}, nil
	case e.Migration != (mimiport.MigrationID{}):
		m, err := a.svc.AdminMigration(ctx, e.Migration)
		if err != nil {
			return nil, err
		}
		return state{"state": m.State, "group_id": m.GroupID}, nil
	case len(e.GroupID) > 0:
		g, err := a.svc.AdminGroup(ctx, e.GroupID)
		var unknown *mimiport.Error
		if errors.As(err, &unknown) && unknown.Kind == mimiport.KindUnknownGroup {
			return nil, nil // a recover brings the group here
		}
		if err != nil {
			return nil, err
		}
		return state{"state": g.State, "term": g.Term, "epoch": g.Epoch, "server": g.Server}, nil
	}
	p, err := a.svc.Policy(ctx)
	return p.Values(), err
}

func (a *admin) listAudit(ctx context.Context, r *edge.Request) (any, error) {
	p, err := newPage[api.AuditEntry](r)
	if err != nil {
		return nil, err
	}
	after, err := bytesParam(r, "after")
	if err != nil {
		return nil, err
	}
	var before storage.AuditID
	if after != nil && len(after) != len(before) {
		return nil, badQuery("after: the id has %d bytes, not %d", len(after), len(before))
	}
	copy(before[:], after)
	entries, err := a.svc.AuditLog(ctx, before, p.Limit)
	if err != nil {
		return nil, err
	}
	return p.fill(entries, func(e api.AuditEntry) string { return e.ID }), nil
}
