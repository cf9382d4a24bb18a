package delivery_test

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest"
)

// TestCompaction: the outbox compacts a log that is larger than its snapshot. Only a load of the group shows a
// difference.
func TestCompaction(t *testing.T) {
	p := newPlay(t)
	key := storage.GroupKey{ID: p.id}
	bound := p.group
	const commits = 300 // of some 700 bytes each: more than twice the size at which the server compacts
	for range commits {
		p.commit(serverA, alice, mlstest.CommitOptions{})
		p.say(serverA, bob)
		if p.group.Epoch()%20 == 0 {
			p.run()
		}
	}
	p.run()
	snap, err := p.stores[serverA].Snapshot(t.Context(), key, math.MaxInt64)
	if err != nil || snap.Epoch+commits/2 < p.group.Epoch() {
		t.Fatalf("at epoch %d the last snapshot is %+v, %v", p.group.Epoch(), snap, err)
	}
	if first, err := p.stores[serverA].Snapshot(t.Context(), key, bound.Epoch()); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the first snapshot is still there: %+v, %v", first, err)
	}

	p.restart(serverA)
	p.expectHosted(serverA, 0)
	for _, epoch := range []uint64{p.group.Epoch() - 1, snap.Epoch, snap.Epoch - 1} {
		if _, err := p.services[serverA].RatchetTree(t.Context(), caller(alice), p.id, epoch); err != nil {
			t.Errorf("the tree of epoch %d: %v", epoch, err)
		}
	}
	log, err := p.services[serverA].Messages(t.Context(), caller(bob), p.id, api.MessagesQuery{Limit: 2})
	if err != nil || len(log.Messages) != 2 || log.Messages[0].Seq != 1 {
		t.Errorf("the log begins with %+v, %v", log, err)
	}
	p.commit(serverA, bob, mlstest.CommitOptions{})
}

// TestCompactionKeepsProposals: a snapshot holds the beginning of an epoch. The log after it holds the proposals of
// that epoch.
func TestCompactionKeepsProposals(t *testing.T) {
	p := newPlay(t)
	for range 120 {
		p.commit(serverA, alice, mlstest.CommitOptions{})
	}
	proposal := p.group.Propose(1, p.group.Update(1))
	if _, err := p.submit(serverA, bob, &api.SubmitRequest{Message: proposal}); err != nil {
		t.Fatal(err)
	}
	p.run()
	p.restart(serverA)
	p.commit(serverA, alice, mlstest.CommitOptions{References: [][]byte{proposal}})
	p.restart(serverA)
	p.expectHosted(serverA, 0)
}

// TestCompactionAfterAFailure: the server repeats a compaction that failed before or after it was stored. That harms
// nothing.
func TestCompactionAfterAFailure(t *testing.T) {
	for name, fail := range map[string]func(*storagetest.Faulty, int){
		"before": (*storagetest.Faulty).FailBefore, "after": (*storagetest.Faulty).FailAfter,
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			for range 120 {
				p.commit(serverA, alice, mlstest.CommitOptions{})
			}
			rows, _, err := p.stores[serverA].Due(t.Context(), p.now, 100)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(rows, func(r storage.Row) bool { return r.Kind == storage.RowCompact })
			if i < 0 {
				t.Fatal("nothing is to be compacted")
			}
			faulty := &storagetest.Faulty{Store: p.stores[serverA]}
			deps := p.services[serverA].Deps
			deps.Store = faulty
			p.services[serverA] = delivery.New(deps)
			fail(faulty, 1)
			if err := p.services[serverA].Do(t.Context(), rows[i]); !errors.Is(err, storagetest.ErrInjected) {
				t.Errorf("got %v", err)
			}
			if err := p.services[serverA].Do(t.Context(), rows[i]); err != nil {
				t.Error(err)
			}
			p.restart(serverA)
			p.expectHosted(serverA, 0)
			p.commit(serverA, bob, mlstest.CommitOptions{})
		})
	}
}

// restart makes a server forget everything that it has only in memory.
func (p *play) restart(server string) {
	p.services[server] = delivery.New(p.services[server].Deps)
}
