package registry

import (
	"context"
	"errors"
	"testing"
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
