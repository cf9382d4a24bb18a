package storage

import (
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// A store keeps a nonce for NonceLife, and at most MaxNonces nonces of one device.
const (
	NonceLife = 10 * time.Minute
	MaxNonces = 2048
)

// QuotaNonces is the quota in the *LimitError for a device that has used MaxNonces nonces.
const QuotaNonces = "nonces"

// Nonce is the nonce of one signed request of a device. No two requests of a device have the same nonce.
type Nonce struct {
	UserID, DeviceID string
	Nonce            mimiport.Nonce
	UsedAt           time.Time
}
