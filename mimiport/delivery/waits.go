package delivery

import (
	"sync"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// waits lets requests wait for a migration to change.
type waits struct {
	mu sync.Mutex
	m  map[mimiport.MigrationID]chan struct{}
}

// changed is closed at the next change of the record.
func (w *waits) changed(id mimiport.MigrationID) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == nil {
		w.m = make(map[mimiport.MigrationID]chan struct{})
	}
	if w.m[id] == nil {
		w.m[id] = make(chan struct{})
	}
	return w.m[id]
}

func (w *waits) notify(id mimiport.MigrationID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ch := w.m[id]; ch != nil {
		close(ch)
		delete(w.m, id)
	}
}
