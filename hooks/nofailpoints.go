//go:build !failpoints

package hooks

import (
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// clock returns the time for the whole module. Only measurements of durations do not use it. A build with fail points
// can set it: see failpoints.go.
func clock() time.Time { return time.Now() }

// instrument changes nothing in this build.
func instrument(store storage.Store, sender delivery.Sender) (storage.Store, delivery.Sender) {
	return store, sender
}
