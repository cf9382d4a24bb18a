package hosts

import (
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Scenario is a start and everything that may happen from it. A has the group in the beginning.
type Scenario struct {
	Name       string
	Room       []possible // the possible steps, migrations first
	Successors []server   // the successors that the room lists, the preferred one first
	HasHostile bool
	Hostile    server
	Commits    bool // hosts accept Commits
	Drops      bool // operators drop a staged group at any time
	Closes     bool // members close the group
	Outages    bool // A goes out of service, once
	Loses      bool // A is lost for good
	Restores   bool // an operator restores a server from a backup, once

	tree
	moves int
}

const (
	moves    = mimiport.StepMigration
	reclaims = mimiport.StepReclaim
	recovers = mimiport.StepRecover
)

// Scenarios are all scenarios.
var Scenarios = []Scenario{
	{Name: "two recovers into one term", Loses: true, Outages: true, Commits: true, Room: []possible{
		{recovers, 0, b, false}, {recovers, 0, c, false},
	}},
	{
		Name: "two recovers by listed successors", Loses: true, Outages: true, Commits: true, Successors: []server{c, b},
		Room: []possible{{recovers, 0, b, false}, {recovers, 0, c, false}},
	},
	{Name: "a recover beside a decided move", Loses: true, Outages: true, Commits: true, Drops: true, Room: []possible{
		{moves, 0, b, false}, {recovers, 0, c, false}, {reclaims, 1, a, false},
	}},
	{Name: "a backup from before the group came back", Restores: true, Commits: true, Room: []possible{
		{moves, 0, b, false}, {moves, 1, a, false},
	}},
	{Name: "a backup and a claim", Restores: true, Room: []possible{
		{moves, 0, b, false}, {recovers, 0, c, false}, {reclaims, 1, a, false},
	}},
	{Name: "a backup and another move", Restores: true, Room: []possible{
		{moves, 0, b, false}, {moves, 0, c, false},
	}},
	{Name: "two moves to one server, and claims", Drops: true, Room: []possible{
		{moves, 0, b, false}, {moves, 0, b, false}, {recovers, 0, a, false}, {recovers, 0, b, false},
		{reclaims, 1, a, false},
	}},
	{Name: "two moves to one server, and a backup", Drops: true, Restores: true, Room: []possible{
		{moves, 0, b, false}, {moves, 0, b, false}, {reclaims, 1, a, false},
	}},
	{Name: "a group that is closed", Closes: true, Room: []possible{
		{moves, 0, b, false}, {recovers, 0, c, false}, {reclaims, 1, a, false},
	}},
	{Name: "a group that is closed, and a backup", Closes: true, Restores: true, Room: []possible{
		{moves, 0, b, false}, {moves, 1, a, false}, {recovers, 0, c, false},
	}},
	{
		Name: "a group that is closed, and an outage", Closes: true, Loses: true, Outages: true, Commits: true,
		Successors: []server{c}, Room: []possible{{moves, 0, b, false}, {recovers, 0, c, false}},
	},
	{Name: "a hostile host", HasHostile: true, Hostile: a, Room: []possible{
		{moves, 0, b, false}, {moves, 0, c, false}, {recovers, 0, b, false}, {reclaims, 1, a, false},
	}},
	{Name: "a hostile former host", HasHostile: true, Hostile: a, Room: []possible{
		{moves, 0, b, false}, {moves, 1, c, false}, {moves, 0, b, false}, {reclaims, 1, a, false}, {recovers, 1, a, false},
	}},
	{Name: "old offers of a hostile host", HasHostile: true, Hostile: a, Room: []possible{
		{moves, 0, b, false}, {moves, 1, a, false}, {moves, 2, b, false},
	}},
	{Name: "a day's partition", Outages: true, Commits: true, Successors: []server{b}, Room: []possible{
		{moves, 0, c, false}, {recovers, 0, b, false}, {recovers, 0, c, false},
	}},
}

// build adds the last claims of operators: each honest server may recover the group from the end of each lineage.
func (sc Scenario) build() Scenario {
	sc.tree = append([]possible{{host: a}}, sc.Room...)
	for _, p := range sc.Room {
		if p.kind == mimiport.StepMigration {
			sc.moves++
		}
	}
	for i := range sc.tree {
		for s := range server(servers) {
			p := possible{recovers, step(i), s, true}
			same := func(q possible) bool { return q.kind == p.kind && q.before == p.before && q.host == p.host }
			if !(sc.HasHostile && sc.Hostile == s) && !slices.ContainsFunc(sc.tree, same) {
				sc.tree = append(sc.tree, p)
			}
		}
	}
	return sc
}

// start is the world in the beginning.
func (m *model) start() *world {
	w := new(world)
	if !m.hostile(a) {
		w.data[a].rows[0].state = active
	}
	w.signed[root] = taken
	return w
}
