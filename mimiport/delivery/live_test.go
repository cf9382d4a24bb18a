package delivery_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// loads counts how often a group is loaded.
type loads struct {
	storage.Store
	n atomic.Int64
}

func (l *loads) Snapshot(ctx context.Context, key storage.GroupKey, epoch uint64) (*storage.Snapshot, error) {
	l.n.Add(1)
	return l.Store.Snapshot(ctx, key, epoch)
}

// TestLoadsOnce: the server loads a group that is not in memory once for all waiting requests.
func TestLoadsOnce(t *testing.T) {
	store := &loads{Store: memory.New()}
	c := newCrowd(t, serviceOn(store), 50)
	var wait sync.WaitGroup
	for range 16 {
		wait.Go(func() {
			if _, err := c.service.Group(t.Context(), caller("@user0:a.example"), c.id); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if n := store.n.Load(); n != 1 {
		t.Errorf("loaded %d times", n)
	}
}

// TestCacheIsBounded: the cache of loaded groups has a bound in bytes. The least recently used group leaves it first.
func TestCacheIsBounded(t *testing.T) {
	for _, test := range []struct {
		bytes int
		want  int64 // the loads after three rounds over all groups
	}{{1 << 30, 3}, {1, 9}} {
		store := &loads{Store: memory.New()}
		deps := serviceOn(store).Deps
		deps.Limits.CacheBytes = test.bytes
		service := delivery.New(deps)
		crowds := []*crowd{newCrowd(t, service, 3), newCrowd(t, service, 3), newCrowd(t, service, 3)}
		for range 3 {
			for _, c := range crowds {
				if _, err := service.Group(t.Context(), caller("@user0:a.example"), c.id); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := store.n.Load(); n != test.want {
			t.Errorf("with %d bytes: %d loads, want %d", test.bytes, n, test.want)
		}
	}
}
