package delivery_test

import (
	"errors"
	"math"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// newTreePlay is a play of a group that is not bound yet. Each of its GroupInfos holds the ratchet tree.
func newTreePlay(t *testing.T) *play {
	p := &play{world: newWorld(t)}
	reserve := &api.ReserveGroupRequest{RoomID: room}
	p.id = must(p.services[serverA].ReserveGroup(t.Context(), caller(alice), reserve))(t).GroupID
	p.group = mlstest.New(mlstest.Options{
		Seed: 1, GroupID: p.id, Tree: true,
		Members: [][]byte{mlstest.Identity(alice, "ALICE"), mlstest.Identity(bob, "BOB")},
	})
	return p
}

// bindWith binds the group at A with a separate tree, or with none.
func (p *play) bindWith(tree []byte) error {
	_, err := p.services[serverA].BindGroup(p.t.Context(), caller(alice), p.id, &api.BindGroupRequest{
		Protocol: "mls10", GroupInfo: p.group.GroupInfo(), RatchetTree: tree,
	})
	return err
}

// keptTrees counts the snapshots that A keeps, and checks that no Commit of the log has a GroupInfo.
func (p *play) keptTrees() (snapshots int) {
	p.t.Helper()
	key := storage.GroupKey{ID: p.id}
	entries := must(p.stores[serverA].Handshakes(p.t.Context(), key, 1, 1000))(p.t)
	for i := range entries {
		if len(entries[i].GroupInfo) > 0 {
			p.t.Errorf("message %d has its GroupInfo in the log", entries[i].Seq)
		}
	}
	for epoch := uint64(math.MaxInt64); ; snapshots++ {
		s, err := p.stores[serverA].Snapshot(p.t.Context(), key, epoch)
		if errors.Is(err, storage.ErrNotFound) {
			return snapshots
		}
		if err != nil {
			p.t.Fatal(err)
		}
		if len(s.RatchetTree) > 0 {
			p.t.Errorf("the tree of epoch %d is kept twice", s.Epoch)
		}
		if epoch = s.Epoch - 1; s.Epoch == 0 {
			return snapshots + 1
		}
	}
}

// TestTreeInside: a GroupInfo may hold the tree: in a bind, in each Commit, in a migration and in a recover. The server
// keeps two of all these trees.
func TestTreeInside(t *testing.T) {
	for name, twice := range map[string]bool{"inside": false, "inside and beside": true} {
		t.Run(name, func(t *testing.T) {
			p := newTreePlay(t)
			var beside []byte
			if twice {
				beside = p.group.RatchetTree()
			}
			for range 2 { // the second bind changes nothing
				if err := p.bindWith(beside); err != nil {
					t.Fatal(err)
				}
			}
			p.expectHosted(serverA, 0)
			p.restart(serverA)
			p.expectHosted(serverA, 0)
			for i := range 20 {
				update := p.submitted(p.group.Update(leafOf[alice]))
				p.commit(serverA, bob, mlstest.CommitOptions{References: [][]byte{update}, Tree: true})
				p.say(serverA, alice)
				if i%3 == 0 {
					p.restart(serverA)
				}
				p.expectHosted(serverA, 0)
				p.run()
			}
			if n := p.keptTrees(); n > 2 {
				t.Errorf("%d trees are kept", n)
			}
			p.restart(serverA)
			if _, err := p.services[serverA].RatchetTree(t.Context(), caller(bob), p.id, p.group.Epoch()-1); err != nil {
				t.Errorf("the tree of the epoch before: %v", err)
			}
			p.expectSound(serverA)

			a, err := p.request(serverA, serverB, bob, func(o *mlstest.CommitOptions) { o.Tree = true })
			if err != nil {
				t.Fatal(err)
			}
			must(p.initiate(a))(t)
			p.run()
			p.expect(a, "moved", "active")
			p.group = a.commit.Next
			p.restart(serverA)
			p.restart(serverB)
			p.expectHosted(serverB, 1)
			p.commit(serverB, alice, mlstest.CommitOptions{Tree: true})
			p.expectSound(serverA)
			p.expectSound(serverB)

			p.addServer("c.example")
			p.allow("c.example", `{"recover":true}`)
			held := p.held(p.lineage(serverB))
			held.RatchetTree = beside
			if twice {
				held.RatchetTree = p.group.RatchetTree()
			}
			must(p.services["c.example"].Recover(t.Context(), p.id, held))(t)
			p.restart("c.example")
			p.expectHosted("c.example", 2)
			p.commit("c.example", bob, mlstest.CommitOptions{Tree: true})
		})
	}
}

// TestAnotherTreeInside: the server refuses a GroupInfo that holds the tree of another group. It changes nothing.
func TestAnotherTreeInside(t *testing.T) {
	p := newTreePlay(t)
	other := p.group.Commit(mlstest.CommitOptions{}).Next
	expectRule(t, p.bindWith(other.RatchetTree()), "group-info-tree")
	if err := p.bindWith(nil); err != nil {
		t.Fatal(err)
	}
	p.expectHosted(serverA, 0)
}

// TestTreeInsideIsBounded: the tree in a Commit's GroupInfo counts for the size limit of a message and for the bytes of
// a day.
func TestTreeInsideIsBounded(t *testing.T) {
	p := newTreePlay(t)
	if err := p.bindWith(nil); err != nil {
		t.Fatal(err)
	}
	c := p.group.Commit(mlstest.CommitOptions{Path: true, Tree: true})
	p.allow(serverA, `{"quotas":{"bytes_per_day":1000}}`)
	req := &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}
	_, err := p.submit(serverA, alice, req)
	if len(c.Message) >= 1000 || len(c.GroupInfo) >= 1000 {
		t.Fatalf("the Commit has %d bytes, its GroupInfo %d", len(c.Message), len(c.GroupInfo))
	}
	expectRule(t, err, "bytes_per_day")
	p.RestartWith(serverA, func(d *delivery.Deps) { d.Limits.MessageBytes = int64(len(c.Message) + len(c.GroupInfo) - 1) })
	_, err = p.submit(serverA, alice, req)
	expectKind(t, err, mimiport.KindTooLarge)
}

// TestTreeInsideElsewhere: a process with an older state in memory goes on with the state that another process has
// stored.
func TestTreeInsideElsewhere(t *testing.T) {
	p := newTreePlay(t)
	if err := p.bindWith(nil); err != nil {
		t.Fatal(err)
	}
	one, two := p.services[serverA], delivery.New(p.services[serverA].Deps)
	for range 3 {
		for _, process := range []*delivery.Service{one, two} {
			p.services[serverA] = process
			p.commit(serverA, alice, mlstest.CommitOptions{Tree: true})
			p.expectHosted(serverA, 0)
		}
	}
	p.services[serverA] = one
	p.submitted(p.group.Update(leafOf[alice]))
	p.expectSound(serverA)
}
