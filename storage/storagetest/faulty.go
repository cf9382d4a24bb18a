package storagetest

import (
	"context"
	"errors"
	"sync"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// ErrInjected is the failure that a Faulty store was told to have.
var ErrInjected = errors.New("storagetest: injected failure")

// Faulty is a store whose Apply fails on command, before or after the change took effect: what a caller sees of a lost
// database connection. All else goes to the store inside. It is safe for concurrent use.
type Faulty struct {
	storage.Store

	mu     sync.Mutex
	before int // counts down to the Apply that fails before it takes effect
	after  int // likewise, after
}

// FailBefore makes the k-th Apply from now fail without effect; the next one is the first.
func (f *Faulty) FailBefore(k int) { f.arm(&f.before, k) }

// FailAfter makes the k-th Apply from now take effect and fail all the same, when the store inside lets it succeed.
func (f *Faulty) FailAfter(k int) { f.arm(&f.after, k) }

func (f *Faulty) arm(counter *int, k int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*counter = k
}

// strikes counts an Apply and says whether it is one to fail.
func (f *Faulty) strikes() (before, after bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before--
	f.after--
	return f.before == 0, f.after == 0
}

// Apply implements storage.Store.
func (f *Faulty) Apply(ctx context.Context, c *storage.Change) error {
	before, after := f.strikes()
	if before {
		return ErrInjected
	}
	if err := f.Store.Apply(ctx, c); err != nil {
		return err
	}
	if after {
		return ErrInjected
	}
	return nil
}
