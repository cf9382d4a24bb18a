package delivery

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// The times of a drain.
const (
	answerWait  = 2 * time.Minute  // for an asked member, before the next one is asked
	requestLife = 24 * time.Hour   // for which a member's device may follow a request
	recheck     = 10 * time.Minute // until the service looks at a stuck group again
	shortly     = 5 * time.Second  // until it looks again at a group that may soon change
	fillEvery   = time.Minute      // from one search for new groups to the next
)

// maxAsked is the most groups that one member is asked to move at a time.
const maxAsked = 16

// step deals with the next groups of the drain. The row carries itself on.
func (s drains) step(ctx context.Context, row *storage.Row) error {
	o, err := s.order(ctx)
	if err != nil {
		return err
	}
	now := s.Now()
	if !o.on() || row.Order < o.Number {
		return s.done(ctx, row)
	}
	if o.overdue(now) {
		s.Log.WarnContext(ctx, "the deadline of the drain is over: this server asks no member any more")
		return s.done(ctx, row)
	}
	if s.seen.fill(now) {
		if err := s.Store.FillDrain(ctx, now); err != nil {
			return err
		}
	}
	groups, every := o.pace()
	due, next, err := s.Store.DueDrain(ctx, now, groups)
	if err != nil {
		return err
	}
	if err := s.deal(ctx, o, due); err != nil {
		return err
	}
	again := now.Add(every)
	if len(due) < groups {
		again = now.Add(max(every, shortly))
		if !next.IsZero() && next.Before(again) {
			again = later(next, now.Add(every))
		}
	}
	return s.apply(ctx, &storage.Change{Done: []storage.RowKey{row.Key()}, Rows: []storage.Row{o.row(again)}})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// route is the way of events: from a local server to another.
type route struct{ from, to string }

// round is one step's work: the groups as they are to be stored, and the requests to members.
type round struct {
	drains
	order  *drainOrder
	find   *finder
	now    time.Time
	asked  map[string]int // by user: how many groups the user is asked to move
	stored []storage.DrainGroup
	events map[route][]api.DeviceEvent
	places map[route][]int // of the event's group in stored
}

// deal asks a member for each of the due groups. It stores whom it asks before it asks: so after a crash it asks the
// next member when the time of that one is up.
func (s drains) deal(ctx context.Context, o *drainOrder, due []storage.DrainGroup) error {
	if len(due) == 0 {
		return nil
	}
	find, err := s.finder(ctx, o.Targets)
	if err != nil {
		return err
	}
	r := &round{drains: s, order: o, find: find, now: s.Now(), asked: make(map[string]int),
		events: make(map[route][]api.DeviceEvent), places: make(map[route][]int)}
	for i := range due {
		err := r.look(ctx, due[i])
		if err != nil && ctx.Err() == nil { // one group must not stop the others
			err = r.stick(due[i], []api.DrainReason{fault(err)})
		}
		if err != nil {
			return err
		}
	}
	if err := s.Store.PutDrain(ctx, r.stored); err != nil {
		return err
	}
	return r.send(ctx)
}

// look decides what becomes of a group.
func (r *round) look(ctx context.Context, d storage.DrainGroup) error {
	g, err := r.core.groups.Group(ctx, d.ID)
	if err != nil {
		return err
	}
	d.Why = nil
	if g.State != migration.GroupActive && g.State != migration.GroupStopped { // it has just been frozen, or is gone
		d.State, d.Due = storage.DrainWaiting, r.now.Add(shortly)
		r.stored = append(r.stored, d)
		return nil
	}
	it, err := r.find.find(ctx, g)
	if err != nil {
		return err
	}
	if len(it.candidates) == 0 {
		return r.stick(d, it.why)
	}
	c, busy, err := r.choose(ctx, &d, it)
	switch {
	case err != nil:
		return err
	case c != nil:
		return r.ask(g, d, it, c)
	case busy:
		d.State, d.Due = storage.DrainWaiting, r.now.Add(shortly)
		r.stored = append(r.stored, d)
		return nil
	}
	return r.stick(d, append([]api.DrainReason{reason("", "no_answer", fmt.Sprintf("None of the %d members who can move "+
		"the group has done so.", len(it.candidates)), "Wait for those who are away, or ask one of them.")}, it.why...))
}

// stick stores that nobody can move a group now. The next look begins with the first member again.
func (r *round) stick(d storage.DrainGroup, why []api.DrainReason) (err error) {
	d.State, d.Due = storage.DrainStuck, r.now.Add(recheck)
	d.Why, err = json.Marshal(why)
	r.stored = append(r.stored, d)
	return err
}

// choose returns the next member to ask, or nil. busy says that a member has enough to do at present.
func (r *round) choose(
	ctx context.Context, d *storage.DrainGroup, it *found,
) (c *candidate, busy bool, err error) {
	if d.State == storage.DrainStuck { // a new round
		d.User, d.Tried = "", 0
	}
	start := 0
	if d.User != "" {
		start = min(d.Tried, len(it.candidates)) // the list has changed: leave out as many as have been asked
		if i := slices.IndexFunc(it.candidates, func(c candidate) bool { return c.user == d.User }); i >= 0 {
			start = i + 1
		}
	}
	for i := start; i < len(it.candidates); i++ {
		c := &it.candidates[i]
		if r.seen.requirePresent(registry.ServerOf(c.user), r.now) != nil {
			continue
		}
		n, known := r.asked[c.user]
		if !known {
			if n, err = r.Store.CountAsked(ctx, c.user); err != nil {
				return nil, false, err
			}
			r.asked[c.user] = n
		}
		if n < maxAsked {
			return c, false, nil
		}
		busy = true
	}
	return nil, busy, nil
}

// ask stores whom this server asks, and signs the request.
func (r *round) ask(g *storage.Group, d storage.DrainGroup, it *found, c *candidate) error {
	expires := r.now.Add(requestLife)
	if deadline := storage.Time(r.order.Deadline); r.order.Deadline > 0 {
		expires = earlier(expires, deadline)
	}
	signed, err := r.sign(g.Server, &mimiport.MoveRequest{
		SourceDomain: g.Server, GroupID: g.ID, Term: g.Term, RoomID: g.RoomID, UserID: c.user, Targets: c.targets,
		ExpiresAt: uint64(expires.UnixMilli()),
	})
	if err != nil {
		return err
	}
	content, err := json.Marshal(&api.SignedInfo{Message: signed.Message, KeyID: signed.KeyID})
	if err != nil {
		return err
	}
	d.State, d.Due, d.User, d.Asked = storage.DrainAsked, r.now.Add(answerWait), c.user, r.now
	d.Tried++
	r.asked[c.user]++
	server := registry.ServerOf(c.user)
	way := route{g.Server, server}
	r.places[way] = append(r.places[way], len(r.stored))
	r.stored = append(r.stored, d)
	r.events[way] = append(r.events[way], api.DeviceEvent{
		ID: fmt.Sprintf("move/%s/%d", mimiport.IDText(g.ID), r.now.UnixMilli()), Type: api.EventMoveRequest,
		Devices: devicesOf(map[string]map[string]int{c.user: it.devices[server][c.user]}), Content: content,
	})
	return nil
}

// send sends the requests. Where one does not arrive, the next member is asked at once. If a server refuses a request,
// this server sends the others to it.
func (r *round) send(ctx context.Context) error {
	var failed []storage.DrainGroup
	for way, events := range r.events {
		for places := r.places[way]; len(events) > 0; {
			arrived, err := r.Sender.ToDevice(ctx, way.from, way.to, events)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			next := len(events)
			switch {
			case err == nil:
				arrived = next
			case mimiport.KindOf(err) == mimiport.KindInvalid:
				next = arrived + 1
			default:
				r.seen.miss(way.to, r.now, err)
			}
			r.Metrics.asked(arrived, next-arrived)
			for _, place := range places[arrived:next] {
				d := r.stored[place]
				d.State, d.Due = storage.DrainWaiting, r.now
				failed = append(failed, d)
			}
			events, places = events[next:], places[next:]
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return r.Store.PutDrain(ctx, failed)
}
