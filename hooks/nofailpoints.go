//go:build !failpoints

package hooks

import "github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"

// instrument is for a build that tests crashes: see failpoints.go.
func instrument(store delivery.Store, sender delivery.Sender) (delivery.Store, delivery.Sender) {
	return store, sender
}
