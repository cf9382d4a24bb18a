//go:build !failpoints

package hooks

import (
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// clock is what all of the module goes by, but for how long something takes. It can be set in a build that tests
// failures: see failpoints.go.
func clock() time.Time { return time.Now() }

// instrument is for the same build.
func instrument(store storage.Store, sender delivery.Sender) (storage.Store, delivery.Sender) {
	return store, sender
}
