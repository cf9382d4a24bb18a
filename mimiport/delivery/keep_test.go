package delivery_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// opens counts how often an engine verifies a whole group.
type opens struct {
	mls.Engine
	mls.ExternalSenders
	n atomic.Int64
}

func (o *opens) Open(groupInfo, tree []byte) (mls.Group, error) {
	o.n.Add(1)
	return o.Engine.Open(groupInfo, tree)
}

// countOpens restarts a server and counts how often it verifies a whole group.
func (p *play) countOpens(server string) *opens {
	o := new(opens)
	p.RestartWith(server, func(d *delivery.Deps) {
		o.Engine = d.Engines["mls10"]
		o.ExternalSenders = o.Engine.(mls.ExternalSenders)
		d.Engines = mls.Engines{"mls10": o}
	})
	return o
}

func (o *opens) expect(t *testing.T, want int64) {
	t.Helper()
	if n := o.n.Load(); n != want {
		t.Errorf("the server verified a whole group %d times, want %d", n, want)
	}
}

// TestTargetKeepsWhatItVerified: the target verifies a group once. Only after it has lost its memory does it verify the
// group again.
func TestTargetKeepsWhatItVerified(t *testing.T) {
	p := newPlay(t)
	verified := p.countOpens(serverB)
	p.move(serverA, serverB, bob)
	p.commit(serverB, bob, mlstest.CommitOptions{})
	p.say(serverB, alice)
	p.expectHosted(serverB, 1)
	verified.expect(t, 1)
	p.Restart(serverB)
	p.commit(serverB, bob, mlstest.CommitOptions{})
	verified.expect(t, 2)
}

// TestTargetForgetsDropped: the target keeps no group in memory whose migration was dropped.
func TestTargetForgetsDropped(t *testing.T) {
	p := newPlay(t)
	verified := p.countOpens(serverB)
	p.lost = func(_, what string) bool { return what == "confirmation" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "decided", "staged")
	verified.expect(t, 1)
	if _, err := p.services[serverB].DropStaged(t.Context(), a.id); err != nil {
		t.Fatal(err)
	}
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(time.Hour)
	p.run()
	p.expect(a, "moved", "active") // a late confirmation counts
	p.group = a.commit.Next
	p.commit(serverB, bob, mlstest.CommitOptions{})
	verified.expect(t, 2)
}

// otherSnapshot is a store that has another GroupInfo than the one that was stored.
type otherSnapshot struct {
	storage.Store
	edit func(*storage.Snapshot)
}

func (o *otherSnapshot) Snapshot(ctx context.Context, key storage.GroupKey, epoch uint64) (*storage.Snapshot, error) {
	s, err := o.Store.Snapshot(ctx, key, epoch)
	if err == nil && o.edit != nil {
		changed := *s
		s = &changed
		o.edit(s)
	}
	return s, err
}

// TestTargetKeepsOnlyWhatIsStored: the target takes what it has kept only if the store has the very same bytes.
func TestTargetKeepsOnlyWhatIsStored(t *testing.T) {
	p := newPlay(t)
	store := &otherSnapshot{Store: p.stores[serverB]}
	p.RestartWith(serverB, func(d *delivery.Deps) { d.Store = store })
	verified := p.countOpens(serverB)
	p.begin(serverA, serverB, bob)
	store.edit = func(s *storage.Snapshot) { s.RatchetTree = flipped(s.RatchetTree) }
	p.run()
	if _, err := p.services[serverB].Group(t.Context(), caller(bob), p.id); err == nil {
		t.Error("the target serves a group that is not the stored one")
	}
	store.edit = nil
	if _, err := p.services[serverB].Group(t.Context(), caller(bob), p.id); err != nil {
		t.Error(err)
	}
	if n := verified.n.Load(); n < 3 {
		t.Errorf("the server verified a whole group %d times", n)
	}
}
