package federation

import (
	"context"
	"encoding/json"
)

// Local delivers to devices of this server's own users.
type Local interface {
	ToDevice(ctx context.Context, from, to, txnID string, devices map[string][]string, content json.RawMessage) error
}

// Sender is the delivery.Sender of a homeserver: to its own users by the host, to everybody else by federation.
type Sender struct {
	*Client
	IsLocal func(server string) bool
	Local   Local
}

// ToDevice delivers to a server's devices, the local one's included.
func (s *Sender) ToDevice(ctx context.Context, from, to, txnID string, devices map[string][]string, content json.RawMessage) error {
	if s.IsLocal(to) {
		return s.Local.ToDevice(ctx, from, to, txnID, devices, content)
	}
	return s.Client.ToDevice(ctx, from, to, txnID, devices, content)
}
