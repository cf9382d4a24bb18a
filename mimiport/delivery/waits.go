package delivery

import (
	"sync"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// waits lets requests wait for a change of a migration. It holds memory only for migrations that a request waits for.
type waits struct {
	mu sync.Mutex
	m  map[mimiport.MigrationID]*waited
}

// waited is a migration that requests wait for.
type waited struct {
	by      int           // the number of waiting requests
	changed chan struct{} // closed at the next change of the record
}

// begin registers a request that waits for a migration. The request must call end once.
func (w *waits) begin(id mimiport.MigrationID) (end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == nil {
		w.m = make(map[mimiport.MigrationID]*waited)
	}
	if w.m[id] == nil {
		w.m[id] = &waited{changed: make(chan struct{})}
	}
	w.m[id].by++
	return func() { w.end(id) }
}

func (w *waits) end(id mimiport.MigrationID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m[id].by--; w.m[id].by == 0 {
		delete(w.m, id)
	}
}

// changed returns a channel that closes at the next change of the record. The caller must have called begin.
func (w *waits) changed(id mimiport.MigrationID) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.m[id].changed
}

func (w *waits) notify(id mimiport.MigrationID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.m[id]; m != nil {
		close(m.changed)
		m.changed = make(chan struct{})
	}
}
