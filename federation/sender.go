package federation

import (
	"context"
	"encoding/json"
)

// Local delivers to devices of this server's own users.
type Local interface {
	ToDevice(ctx context.Context, from, to, txnID string, devices map[string][]string, content json.RawMessage) error
}

// Sender is the delivery.Sender of a homeserver. It delivers to its own users through Local, and to other users over
// federation.
type Sender struct {
	*Client
	IsLocal func(server string) bool
	Local   Local
}

// ToDevice delivers to devices of any server, also of the local one.
func (s *Sender) ToDevice(
	ctx context.Context, from, to, txnID string, devices map[string][]string, content json.RawMessage,
) error {
	if s.IsLocal(to) {
		return s.Local.ToDevice(ctx, from, to, txnID, devices, content)
	}
	return s.Client.ToDevice(ctx, from, to, txnID, devices, content)
}
