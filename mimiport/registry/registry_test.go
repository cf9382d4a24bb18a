package registry

import (
	"context"
	"errors"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// TestLockEndsWithContext: a request whose client has gone does not wait for a group that another one holds, and leaves
// the lock as it was.
func TestLockEndsWithContext(t *testing.T) {
	r := New(nil, nil, 0)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	id := []byte("group")
	err := r.With(t.Context(), id, func(*Held) error {
		err := r.With(gone, id, func(*Held) error { return errors.New("held by two") })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("a request without a client: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := r.With(t.Context(), id, func(*Held) error { return nil }); err != nil || r.locks.Len() > 0 {
		t.Errorf("%v, %d locks are left", err, r.locks.Len())
	}
}

// TestKeptIsBounded: the groups of Keep have a quarter of the cache. They drive out each other, and no loaded group.
func TestKeptIsBounded(t *testing.T) {
	m := mlstest.New(mlstest.Options{GroupID: []byte("group"), Members: [][]byte{mlstest.Identity("@a:b.example", "A")}})
	state, err := mls.RFC9420(mls.DefaultLimits()).Open(m.GroupInfo(), m.RatchetTree())
	if err != nil {
		t.Fatal(err)
	}
	live := func() *Live {
		l, err := NewLive(state, 1)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	size := live().size()
	r := New(nil, nil, 12*size)
	loaded := cacheKey{"loaded", 0}
	r.cache.put(loaded, live())
	for term := range uint64(100) {
		r.Keep(live(), &storage.Snapshot{GroupID: []byte("group"), Term: term})
	}
	if n := len(r.kept.byKey); n != 3 || r.kept.used > 3*size || r.cache.get(loaded) == nil {
		t.Errorf("%d groups of together %d bytes are kept, each of %d bytes", n, r.kept.used, size)
	}
	(&Held{r, []byte("group")}).Drop(99)
	if r.kept.get(cacheKey{"group", 99}) != nil {
		t.Error("a dropped group is kept")
	}
}
