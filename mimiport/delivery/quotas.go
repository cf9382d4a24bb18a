package delivery

import (
	"context"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// This file says which numbers the operator's quotas bound. The store keeps the numbers, or counts in the transaction
// that stores the counted thing.

// bounded returns the limits on kept numbers.
func bounded(q *policy.Quotas, counters []storage.Counter) (limits []storage.Limit) {
	most := map[string]int{
		storage.QuotaGroups: q.Groups, storage.QuotaGroupsPerUser: q.GroupsPerUser,
		storage.QuotaGroupsPerRoom: q.GroupsPerRoom, storage.QuotaGroupsPerUserInRoom: q.GroupsPerUserInRoom,
		storage.QuotaReservedPerUser: q.ReservedPerUser, storage.QuotaReservedPerRoom: q.ReservedPerRoom,
		storage.QuotaOffers: q.Offers, storage.QuotaOffersPerRoom: q.OffersPerRoom,
		storage.QuotaStaged: q.Staged, storage.QuotaStagedPerUser: q.StagedPerUser,
		storage.QuotaStagedPerRoom: q.StagedPerRoom, storage.QuotaStagedPerUserInRoom: q.StagedPerUserInRoom,
		storage.QuotaStagedPerSource: q.StagedPerSource,
	}
	for _, c := range counters {
		limits = append(limits, storage.Limit{Quota: c.Quota, Max: int64(most[c.Quota]), Counter: &c})
	}
	return limits
}

// groupLimits bound the groups here: in all, and by share for a user, a room, and the user in the room.
func groupLimits(q *policy.Quotas, user, room string) []storage.Limit {
	return bounded(q, storage.GroupCounters(user, room))
}

// reserveLimits bound the reserved ids without a group.
func reserveLimits(q *policy.Quotas, user, room string) []storage.Limit {
	return bounded(q, storage.ReservedCounters(user, room))
}

// offerLimits bound the offers that wait for their content.
func offerLimits(q *policy.Quotas, m *migration.Migration) []storage.Limit {
	return bounded(q, storage.OfferCounters(m))
}

// stageLimits bound the staged groups, which wait for their source's decision: in all, and by share for a user, a room,
// the user in the room, and a source.
func stageLimits(q *policy.Quotas, m *migration.Migration) []storage.Limit {
	return bounded(q, storage.StagedCounters(m))
}

// moveLimits bound the migrations of one user in the hour before now.
func moveLimits(q *policy.Quotas, side migration.Role, m *migration.Migration, now time.Time) []storage.Limit {
	return []storage.Limit{{Quota: "moves_per_hour", Max: int64(q.MovesPerHour), Migrations: recent(now,
		storage.MigrationFilter{Role: side, User: m.User})}}
}

// moves returns the limits on the migrations of one user in the hour before now. There are none for a move to a target
// of this server's drain, and for a move from a server whose drain this server accepts.
func (a authority) moves(
	ctx context.Context, p *policy.Policy, side migration.Role, m *migration.Migration, now time.Time,
) ([]storage.Limit, error) {
	o, err := a.order(ctx)
	if err != nil || side == migration.Source && o.names(m.Target) ||
		side == migration.Target && p.AcceptsDrainOf(m.Source) {
		return nil, err
	}
	return set(moveLimits(&p.Quotas, side, m, now)), nil
}

// abortLimits bound the aborted migrations of a group by one user in the hour before now.
func abortLimits(q *policy.Quotas, m *migration.Migration, now time.Time) []storage.Limit {
	aborted := storage.MigrationFilter{
		Role: migration.Source, GroupID: m.GroupID, User: m.User, States: []migration.State{migration.Aborted},
	}
	return []storage.Limit{{Quota: "aborts_an_hour", Max: int64(q.AbortsAnHour), Migrations: recent(now, aborted)}}
}

// recent restricts a filter to the hour before now. The range ends a little after now, because a concurrent request may
// have stored a record with a later time. Records from a clock that was far ahead stay outside.
func recent(now time.Time, f storage.MigrationFilter) *storage.MigrationFilter {
	f.Since, f.Until = now.Add(-time.Hour), now.Add(storage.MaxWait)
	return &f
}

// spare returns the same limits, each lower by one: the new record is not counted yet.
func spare(limits []storage.Limit) []storage.Limit {
	limits = set(limits)
	for i := range limits {
		limits[i].Max--
	}
	return limits
}

// set returns the limits that the operator has not turned off.
func set(limits []storage.Limit) []storage.Limit {
	return slices.DeleteFunc(limits, func(l storage.Limit) bool { return l.Max == 0 })
}

// reserving returns the limits on a new group id.
func (a authority) reserving(ctx context.Context, g *storage.Group) ([]storage.Limit, error) {
	p, err := a.Policy(ctx)
	q := &p.Quotas
	return slices.Concat(
		set(reserveLimits(q, g.Creator, g.RoomID)), spare(groupLimits(q, g.Creator, g.RoomID)),
	), err
}

// hosting returns the limits on a group that this server begins to host.
func (a authority) hosting(ctx context.Context, g *storage.Group) ([]storage.Limit, error) {
	p, err := a.Policy(ctx)
	return set(groupLimits(&p.Quotas, g.Creator, g.RoomID)), err
}

// beginning returns the limits on a migration that begins: an offer of this server, or a freeze.
func (a authority) beginning(ctx context.Context, m *migration.Migration) ([]storage.Limit, error) {
	p, err := a.Policy(ctx)
	q, now := &p.Quotas, a.Now()
	if err != nil {
		return nil, err
	}
	moves, err := a.moves(ctx, &p, m.Role, m, now)
	if m.Role == migration.Source {
		return append(moves, spare(abortLimits(q, m, now))...), err
	}
	return slices.Concat(
		moves, set(offerLimits(q, m)), spare(stageLimits(q, m)), spare(groupLimits(q, m.User, m.RoomID)),
	), err
}

// staging returns the limits on a group that a migration stages here.
func (a authority) staging(ctx context.Context, m *migration.Migration) ([]storage.Limit, error) {
	p, err := a.Policy(ctx)
	q := &p.Quotas
	return set(append(stageLimits(q, m), groupLimits(q, m.User, m.RoomID)...)), err
}

// stepping returns the limits on a step of a migration.
func (a authority) stepping(ctx context.Context, before, next *migration.Migration) ([]storage.Limit, error) {
	switch {
	case before.Version == 0:
		return a.beginning(ctx, next)
	case before.State == migration.Offered && next.State == migration.Staged:
		return a.staging(ctx, next)
	}
	return nil, nil
}

// requireFreezable fails if a freeze would exceed a quota now. The server calls it before it does any work for the
// freeze.
func (s *core) requireFreezable(ctx context.Context, m *migration.Migration) error {
	p, err := s.Policy(ctx)
	if err != nil {
		return err
	}
	now := s.Now()
	moves, err := s.moves(ctx, &p, migration.Source, m, now)
	if err != nil {
		return err
	}
	return s.apply(ctx, &storage.Change{Limits: spare(append(moves, abortLimits(&p.Quotas, m, now)...))})
}

// countBytes adds to a change the number of bytes that a user adds to a group's log, and the limit on this number.
func (a authority) countBytes(ctx context.Context, c *storage.Change, user string) error {
	p, err := a.Policy(ctx)
	if err != nil {
		return err
	}
	const day = 24 * 60 * 60
	c.Volume = &storage.Volume{GroupKey: c.Group.Key(), UserID: user, Day: a.Now().Unix() / day}
	for i := range c.Entries {
		c.Volume.Bytes += int64(c.Entries[i].Bytes())
	}
	for i := range c.Snapshots { // a Commit whose GroupInfo holds the tree has one
		c.Volume.Bytes += int64(len(c.Snapshots[i].GroupInfo))
	}
	c.Limits = set([]storage.Limit{{Quota: "bytes_per_day", Max: int64(p.Quotas.BytesPerDay), Volume: true}})
	return nil
}
