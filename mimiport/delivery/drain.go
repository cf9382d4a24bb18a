package delivery

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// drains empties this server: members move its groups away (profile, section 8).
type drains struct {
	*core
	seen *surroundings
}

// drainSetting is the name under which the operator's order is stored.
const drainSetting = "drain"

// drainOrder is the operator's last order to empty this server. The zero order is none. Each start has a number of its
// own, and so has the row that carries the start out: a step for an earlier start cannot take the row of a later one.
type drainOrder struct {
	Number    uint64   `json:"number"`
	Targets   []string `json:"targets"`
	Rate      int      `json:"rate_per_minute"`
	StartedAt int64    `json:"started_at"`
	Deadline  int64    `json:"deadline_at,omitempty"`
	StoppedAt int64    `json:"stopped_at,omitempty"`
}

// on reports whether this server empties itself.
func (o *drainOrder) on() bool { return o.StartedAt > 0 && o.StoppedAt == 0 }

// names reports whether this server empties itself, and groups may move to a server.
func (o *drainOrder) names(server string) bool { return o.on() && slices.Contains(o.Targets, server) }

func (o *drainOrder) overdue(now time.Time) bool {
	return o.Deadline > 0 && now.UnixMilli() >= o.Deadline
}

// pace returns how many groups the worker deals with at a time, and the time from one such step to the next.
func (o *drainOrder) pace() (groups int, every time.Duration) {
	groups = (o.Rate + 59) / 60
	return groups, time.Duration(groups) * time.Minute / time.Duration(o.Rate)
}

// order returns the last order to empty this server.
func (a authority) order(ctx context.Context) (*drainOrder, error) {
	raw, err := a.Store.Setting(ctx, drainSetting)
	if errors.Is(err, storage.ErrNotFound) {
		return new(drainOrder), nil
	}
	if err != nil {
		return nil, err
	}
	return parseOrder(raw)
}

// parseOrder reads a stored order.
func parseOrder(raw json.RawMessage) (*drainOrder, error) {
	o := new(drainOrder)
	err := plainjson.Unmarshal(raw, o)
	if err == nil && (o.StartedAt <= 0 || o.Rate <= 0 || len(o.Targets) == 0) {
		err = errors.New("started_at, rate_per_minute or targets is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("the stored drain does not parse: %w", err)
	}
	return o, nil
}

// hastenDrain lets a drain ask the next member, now that a migration has failed. After an error the drain does so when
// the time of the last one is up.
func (a authority) hastenDrain(ctx context.Context, groupID []byte) {
	o, err := a.order(ctx)
	if err == nil && o.on() {
		err = a.Store.HastenDrain(ctx, groupID, a.Now())
	}
	if err != nil {
		a.Log.WarnContext(ctx, "the drain does not know that a migration has failed", "error", err)
	}
}

// requireOpen fails while this server empties itself.
func (a authority) requireOpen(ctx context.Context) error {
	o, err := a.order(ctx)
	if err == nil && o.on() {
		err = forbidden(ruleDraining, policy.Draining)
	}
	return err
}

// ruleDraining names the refusal of a server that empties itself.
const ruleDraining = "draining"

// Drain implements adminapi.Drains.
func (s drains) Drain(ctx context.Context) (*api.Drain, error) {
	o, err := s.order(ctx)
	if err != nil {
		return nil, err
	}
	counted, err := s.Store.CountDrain(ctx)
	if err != nil {
		return nil, err
	}
	d := &api.Drain{
		State: api.DrainNone, Targets: append([]string{}, o.Targets...), Rate: o.Rate, StartedAt: o.StartedAt,
		Deadline: o.Deadline, StoppedAt: o.StoppedAt, Groups: make(map[api.DrainGroupState]int),
		Away: s.seen.away(s.Now()),
	}
	for _, state := range storage.DrainStates {
		d.Groups[api.DrainGroupState(state)] = counted[state]
		d.Total += counted[state]
	}
	d.Left = d.Total - counted[storage.DrainMoved] - counted[storage.DrainGone]
	switch {
	case o.StartedAt == 0:
	case !o.on():
		d.State = api.DrainStopped
	case d.Left == 0:
		d.State = api.DrainDone
	case o.overdue(s.Now()):
		d.State = api.DrainOverdue
	default:
		d.State = api.DrainRunning
	}
	return d, nil
}

// StartDrain implements adminapi.Drains. It returns a KindBadMessage error for a bad request.
func (s drains) StartDrain(ctx context.Context, req *api.DrainRequest) (*api.Drain, error) {
	if err := s.requireTargets(req.Targets); err != nil {
		return nil, err
	}
	const op = "start drain"
	if req.Rate < 0 || req.Rate > api.MaxDrainRate {
		return nil, mimiport.Errorf(op, mimiport.KindBadMessage, "rate_per_minute: %d is not a number from 1 to %d",
			req.Rate, api.MaxDrainRate)
	}
	if req.Deadline < 0 || req.Deadline > maxDrainTime.Milliseconds() {
		return nil, mimiport.Errorf(op, mimiport.KindBadMessage, "deadline_ms: %d is not a number from 0 to %d",
			req.Deadline, maxDrainTime.Milliseconds())
	}
	before, err := s.order(ctx)
	if err != nil {
		return nil, err
	}
	now := s.Now()
	next := &drainOrder{
		Number: before.Number + 1, Targets: req.Targets, Rate: cmp.Or(req.Rate, api.DefaultDrainRate),
		StartedAt: now.UnixMilli(),
	}
	if req.Deadline > 0 {
		next.Deadline = now.UnixMilli() + req.Deadline
	}
	if before.on() {
		next.StartedAt = before.StartedAt
	} else if err := s.Store.ClearDrain(ctx); err != nil {
		return nil, err
	}
	s.seen.forget()
	if err := errors.Join(s.Store.FillDrain(ctx, now), s.Store.HastenDrain(ctx, nil, now)); err != nil {
		return nil, err
	}
	if err := s.putOrder(ctx, next, before, next.row(now)); err != nil {
		return nil, err
	}
	s.Log.InfoContext(ctx, policy.Draining)
	return s.Drain(ctx)
}

// maxDrainTime is the longest time for a drain.
const maxDrainTime = 10 * 365 * 24 * time.Hour

// StopDrain implements adminapi.Drains.
func (s drains) StopDrain(ctx context.Context) (*api.Drain, error) {
	o, err := s.order(ctx)
	if err != nil {
		return nil, err
	}
	if !o.on() {
		return nil, mimiport.Errorf("stop drain", mimiport.KindConflict, "this server is not being emptied")
	}
	o.StoppedAt = s.Now().UnixMilli()
	if err := s.putOrder(ctx, o, o); err != nil {
		return nil, err
	}
	s.Log.InfoContext(ctx, "this server is not being emptied any more")
	return s.Drain(ctx)
}

// putOrder stores an order. It replaces the rows that carry out this order and the one before.
func (s drains) putOrder(ctx context.Context, o, before *drainOrder, rows ...storage.Row) error {
	value, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return s.apply(ctx, &storage.Change{
		Setting: &storage.Setting{Name: drainSetting, Value: value},
		Done:    []storage.RowKey{before.key(), o.key()}, Rows: rows,
	})
}

// key identifies the row that carries the order out.
func (o *drainOrder) key() storage.RowKey {
	return storage.RowKey{Destination: storage.Background, Queue: string(storage.RowDrain), Order: o.Number}
}

// row returns the row that carries the order out from a time on.
func (o *drainOrder) row(due time.Time) storage.Row {
	k := o.key()
	return storage.Row{Destination: k.Destination, Queue: k.Queue, Order: k.Order, Kind: storage.RowDrain, Due: due}
}

// requireTargets fails unless the targets of a drain are few valid names of other servers, each once.
func (s drains) requireTargets(targets []string) error {
	const op = "check the targets"
	if len(targets) == 0 || len(targets) > api.MaxDrainTargets {
		return mimiport.Errorf(op, mimiport.KindBadMessage, "%d targets: name 1 to %d", len(targets),
			api.MaxDrainTargets)
	}
	for i, target := range targets {
		if err := mimiport.ValidateServerName(target); err != nil {
			return err
		}
		if s.IsLocal(target) || slices.Contains(targets[:i], target) {
			return mimiport.Errorf(op, mimiport.KindBadMessage, "%s is this server, or is there twice", target)
		}
	}
	return nil
}

// DrainGroups implements adminapi.Drains.
func (s drains) DrainGroups(
	ctx context.Context, states []api.DrainGroupState, after []byte, limit int,
) (groups []api.DrainGroup, total int, err error) {
	wanted := make([]storage.DrainState, len(states))
	for i, state := range states {
		wanted[i] = storage.DrainState(state)
	}
	found, err := s.Store.DrainGroups(ctx, wanted, after, limit)
	if err != nil {
		return nil, 0, err
	}
	counted, err := s.Store.CountDrain(ctx)
	if err != nil {
		return nil, 0, err
	}
	for state, n := range counted {
		if len(wanted) == 0 || slices.Contains(wanted, state) {
			total += n
		}
	}
	groups = make([]api.DrainGroup, len(found))
	for i := range found {
		if groups[i], err = s.shown(ctx, &found[i]); err != nil {
			return nil, 0, err
		}
	}
	return groups, total, nil
}

// shown describes a group of the drain for an operator.
func (s drains) shown(ctx context.Context, d *storage.DrainGroup) (api.DrainGroup, error) {
	v := api.DrainGroup{GroupID: d.ID, State: api.DrainGroupState(d.State), Why: []api.DrainReason{}}
	g, err := s.Store.Group(ctx, d.ID)
	if errors.Is(err, storage.ErrNotFound) {
		return v, nil
	}
	if err != nil {
		return v, err
	}
	v.RoomID = g.RoomID
	if d.User != "" {
		v.Asked = &api.AskedMember{
			UserID: d.User, At: storage.Millis(d.Asked), Until: storage.Millis(d.Asked.Add(answerWait)), Tried: d.Tried,
		}
	}
	if d.State == storage.DrainStuck && d.Why != nil {
		if err := plainjson.Unmarshal(d.Why, &v.Why); err != nil {
			return v, err
		}
	}
	if g.State == migration.GroupMoved {
		moved, err := s.moved(ctx, g)
		if err != nil {
			return v, err
		}
		v.MovedTo = &api.MovedTo{Server: moved.Server, Term: moved.Term}
	}
	return v, nil
}

// PlanDrain implements adminapi.Drains. Without targets it takes those of the last order.
func (s drains) PlanDrain(
	ctx context.Context, targets []string, after []byte, limit int,
) (plan []api.DrainPlan, total int, err error) {
	if len(targets) == 0 {
		o, err := s.order(ctx)
		if err != nil {
			return nil, 0, err
		}
		targets = o.Targets
	}
	if err := s.requireTargets(targets); err != nil {
		return nil, 0, err
	}
	here := storage.GroupFilter{States: storage.DrainedStates}
	groups, err := s.Store.Groups(ctx, here, after, limit)
	if err != nil {
		return nil, 0, err
	}
	if total, err = s.Store.CountGroups(ctx, here); err != nil {
		return nil, 0, err
	}
	f, err := s.finder(ctx, targets)
	if err != nil {
		return nil, 0, err
	}
	plan = make([]api.DrainPlan, len(groups))
	for i := range groups {
		g := &groups[i]
		found, err := f.find(ctx, g)
		if err != nil {
			return nil, 0, err
		}
		plan[i] = api.DrainPlan{
			GroupID: g.ID, RoomID: g.RoomID, Members: found.members, Moves: found.moves(targets),
			Why: append([]api.DrainReason{}, found.why...),
		}
	}
	return plan, total, nil
}
