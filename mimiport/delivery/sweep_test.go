package delivery_test

import (
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// manyGroups binds more groups of alice, bob and carol in the room, in which A may propose removals.
func (p *play) manyGroups(n int) (ids [][]byte) {
	p.t.Helper()
	p.allow(serverA, `{"quotas":{"groups_per_user_in_room":0,"groups_per_room":0}}`)
	for range n {
		reserved := must(p.services[serverA].ReserveGroup(p.t.Context(), caller(alice),
			&api.ReserveGroupRequest{RoomID: room, SuiteRequest: suite}))(p.t)
		p.id = reserved.GroupID
		p.group = p.groupWith(nil, reserved.ExternalSender)
		p.bind(serverA)
		ids = append(ids, p.id)
	}
	return ids
}

// TestManyLeavesAreOneSweep: any number of changes of a room with any number of groups is one row. It removes the
// leaves from each group.
func TestManyLeavesAreOneSweep(t *testing.T) {
	p := newExternalPlay(t)
	ids := p.manyGroups(220)
	p.Room.Joined[carol] = false
	for range 5 {
		if err := p.services[serverA].RoomChanged(t.Context(), room); err != nil {
			t.Fatal(err)
		}
	}
	p.now = p.now.Add(2 * time.Second)
	if n := p.sweep(); n != 1+3 { // the news, and three pieces
		t.Errorf("%d rows", n)
	}
	for _, p.id = range ids {
		p.expectProposals(serverA, 1)
	}
}

// TestLeaveWhileSwept: a change while the room is being swept leads to another sweep.
func TestLeaveWhileSwept(t *testing.T) {
	p := newExternalPlay(t)
	ids := p.manyGroups(120)
	tell := func() {
		if err := p.services[serverA].RoomChanged(t.Context(), room); err != nil {
			t.Fatal(err)
		}
		p.now = p.now.Add(2 * time.Second)
	}
	tell()
	for range 2 { // the news, and the first piece
		row := p.rows(serverA, storage.RowSweep)[0]
		if err := p.services[serverA].Do(t.Context(), row); err != nil {
			t.Fatal(err)
		}
		p.now = p.now.Add(time.Millisecond)
	}
	p.Room.Joined[carol] = false
	tell()
	p.sweep()
	for _, p.id = range ids {
		p.expectProposals(serverA, 1)
	}
}

// TestSweepGoesOn: a group that cannot be checked now gets a row of its own, and delays no other group.
func TestSweepGoesOn(t *testing.T) {
	p := newExternalPlay(t)
	// carol's own proposal to remove her leaf may be dropped: the server must look again.
	must(p.submit(serverA, carol, &api.SubmitRequest{Message: p.group.Propose(2, p.group.SelfRemove())}))(t)
	waiting, group := p.id, p.group
	others := p.manyGroups(2)
	p.Room.Joined[carol] = false
	if err := p.services[serverA].RoomChanged(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	p.now = p.now.Add(2 * time.Second)
	p.sweep()
	for _, p.id = range others {
		p.expectProposals(serverA, 1)
	}
	rows := p.rows(serverA, migration.RowExpel)
	if len(rows) != 1 || string(rows[0].GroupID) != string(waiting) {
		t.Fatalf("the rows for groups are %+v", rows)
	}
	p.id, p.group = waiting, group
	c := p.group.Commit(mlstest.CommitOptions{Joiner: p.group.NewClient(mlstest.Identity(alice, "NEW"))})
	must(p.submit(serverA, alice, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}))(t) // drops proposals
	p.group = c.Next
	p.now = p.now.Add(time.Minute)
	p.run()
	p.expectProposals(serverA, 1)
}

// TestNoSweepWhereNoGroupIs: a server whose groups in a room have moved away stores nothing when the room changes. The
// new host does.
func TestNoSweepWhereNoGroupIs(t *testing.T) {
	p := newPlay(t)
	p.move(serverA, serverB, bob)
	for server, want := range map[string]int{serverA: 0, serverB: 1} {
		if err := p.services[server].RoomChanged(t.Context(), room); err != nil {
			t.Fatal(err)
		}
		p.now = p.now.Add(2 * time.Second)
		if n := len(p.rows(server, storage.RowSweep)); n != want {
			t.Errorf("%s: %d rows, want %d", server, n, want)
		}
	}
}
