package storage

import (
	"cmp"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// Counter names a number of groups or migrations in certain states. A store keeps these numbers and changes them in the
// transaction that changes the rows. So a limit costs the same for any number of rows.
type Counter struct {
	Quota  string // its name; it also says which of the other fields apply
	User   string
	RoomID string
	Source string
}

// Count is a kept number. A store keeps none that is 0.
type Count struct {
	Counter
	Number int64
}

// The quotas whose numbers a store keeps.
const (
	QuotaGroups              = "groups"
	QuotaGroupsPerUser       = "groups_per_user"
	QuotaGroupsPerRoom       = "groups_per_room"
	QuotaGroupsPerUserInRoom = "groups_per_user_in_room"

	QuotaReservedPerUser = "reserved_per_user"
	QuotaReservedPerRoom = "reserved_per_room"

	QuotaOffers        = "offers"
	QuotaOffersPerRoom = "offers_per_room"

	QuotaStaged              = "staged"
	QuotaStagedPerUser       = "staged_per_user"
	QuotaStagedPerRoom       = "staged_per_room"
	QuotaStagedPerUserInRoom = "staged_per_user_in_room"
	QuotaStagedPerSource     = "staged_per_source"
)

// Counters lists the numbers in which a group counts: as a group whose MLS state this server keeps for its members, or
// as a reserved id.
func (g *Group) Counters() []Counter {
	switch g.State {
	case migration.GroupActive, migration.GroupFrozen, migration.GroupStaged, migration.GroupStopped,
		migration.GroupClosed:
		return GroupCounters(g.Creator, g.RoomID)
	case migration.GroupReserved:
		return ReservedCounters(g.Creator, g.RoomID)
	}
	return nil
}

// GroupCounters lists the numbers for a group of a user in a room.
func GroupCounters(user, roomID string) []Counter {
	return []Counter{
		{Quota: QuotaGroups},
		{Quota: QuotaGroupsPerUser, User: user},
		{Quota: QuotaGroupsPerRoom, RoomID: roomID},
		{Quota: QuotaGroupsPerUserInRoom, User: user, RoomID: roomID},
	}
}

// ReservedCounters lists the numbers for a reserved id of a user in a room.
func ReservedCounters(user, roomID string) []Counter {
	return []Counter{{Quota: QuotaReservedPerUser, User: user}, {Quota: QuotaReservedPerRoom, RoomID: roomID}}
}

// MigrationCounters lists the numbers in which a migration counts: as an offer that waits for its content, or as a
// staged group that waits for its source's decision.
func MigrationCounters(m *migration.Migration) []Counter {
	if m.Role != migration.Target {
		return nil
	}
	switch m.State {
	case migration.Offered:
		return OfferCounters(m)
	case migration.Staged:
		return StagedCounters(m)
	}
	return nil
}

// OfferCounters lists the numbers for an offer.
func OfferCounters(m *migration.Migration) []Counter {
	return []Counter{{Quota: QuotaOffers, User: m.User}, {Quota: QuotaOffersPerRoom, RoomID: m.RoomID}}
}

// StagedCounters lists the numbers for a staged group.
func StagedCounters(m *migration.Migration) []Counter {
	return []Counter{
		{Quota: QuotaStaged},
		{Quota: QuotaStagedPerUser, User: m.User},
		{Quota: QuotaStagedPerRoom, RoomID: m.RoomID},
		{Quota: QuotaStagedPerUserInRoom, User: m.User, RoomID: m.RoomID},
		{Quota: QuotaStagedPerSource, Source: m.Source},
	}
}

// CompareCounters orders counters. Every transaction changes its counters in this order.
func CompareCounters(a, b Counter) int {
	return cmp.Or(strings.Compare(a.Quota, b.Quota), strings.Compare(a.User, b.User),
		strings.Compare(a.RoomID, b.RoomID), strings.Compare(a.Source, b.Source))
}

// Differences returns the numbers to add when a thing that counted in before counts in after, in order. None is 0.
func Differences(before, after []Counter) []Count {
	sums := make(map[Counter]int64)
	for _, c := range before {
		sums[c]--
	}
	for _, c := range after {
		sums[c]++
	}
	var changes []Count
	for c, n := range sums {
		if n != 0 {
			changes = append(changes, Count{c, n})
		}
	}
	slices.SortFunc(changes, func(a, b Count) int { return CompareCounters(a.Counter, b.Counter) })
	return changes
}
