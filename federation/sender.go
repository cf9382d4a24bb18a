package federation

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// Local delivers to devices of this server's own users.
type Local interface {
	ToDevice(ctx context.Context, from, to string, events []api.DeviceEvent) (arrived int, err error)
}

// Sender is the delivery.Sender of a homeserver. It delivers to its own users through Local, and to other users over
// federation.
type Sender struct {
	*Client
	IsLocal func(server string) bool
	Local   Local
}

// ToDevice delivers to devices of any server, also of the local one.
func (s *Sender) ToDevice(ctx context.Context, from, to string, events []api.DeviceEvent) (arrived int, err error) {
	if s.IsLocal(to) {
		return s.Local.ToDevice(ctx, from, to, events)
	}
	return s.Client.ToDevice(ctx, from, to, events)
}
