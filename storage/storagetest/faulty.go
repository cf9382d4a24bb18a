package storagetest

import (
	"context"
	"errors"
	"sync"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// ErrInjected is the error of a Faulty store.
var ErrInjected = errors.New("storagetest: injected failure")

// Faulty is a store whose Apply fails on command, before or after the change takes effect, as with a lost database
// connection. All other calls go to the store inside. It is safe for concurrent use.
type Faulty struct {
	storage.Store

	mu     sync.Mutex
	before int // number of calls until the Apply that fails without effect
	after  int // number of calls until the Apply that fails after it took effect
}

// FailBefore makes the k-th call of Apply from now fail without effect. The next call is the first.
func (f *Faulty) FailBefore(k int) { f.arm(&f.before, k) }

// FailAfter makes the k-th call of Apply from now fail after it took effect, if the store inside succeeds.
func (f *Faulty) FailAfter(k int) { f.arm(&f.after, k) }

func (f *Faulty) arm(counter *int, k int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*counter = k
}

// strikes counts a call of Apply, and reports whether it must fail.
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
