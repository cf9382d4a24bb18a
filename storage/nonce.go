package storage

import (
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// A store keeps the nonce of a request for NonceLife, and of one device MaxNonces at most.
const (
	NonceLife = 10 * time.Minute
	MaxNonces = 2048
)

// QuotaNonces is the quota of a *LimitError for a device that has used MaxNonces.
const QuotaNonces = "nonces"

// Nonce is what tells a request of a device from all others.
type Nonce struct {
	UserID, DeviceID string
	Nonce            mimiport.Nonce
	UsedAt           time.Time
}
