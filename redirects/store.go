package redirects

import (
	"context"
	"encoding/json"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// store is the store of a Delivery Service that changes nothing. Only the nonces of requests are new, and stay in
// memory.
type store struct {
	*engine.Store
	memory *memory.Store
}

// Apply implements storage.Store.
func (store) Apply(context.Context, *storage.Change) error { return errStatic }

// AddSetting implements storage.Store.
func (store) AddSetting(context.Context, string, json.RawMessage) (json.RawMessage, error) {
	return nil, errStatic
}

// UseNonce implements storage.Store.
func (s store) UseNonce(ctx context.Context, n *storage.Nonce) error {
	return s.memory.UseNonce(ctx, n)
}
