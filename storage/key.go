package storage

import "time"

// A store keeps at most MaxKeyObjects key objects, and at most MaxKeyObjectsOfServer of one server. It keeps the ones
// that this server fetched last.
const (
	MaxKeyObjects         = 1024
	MaxKeyObjectsOfServer = 16
)

// KeyObject is a signed key object with which another server publishes a key, as this server fetched it.
type KeyObject struct {
	Server    string
	KeyID     string
	Object    []byte // JSON
	FetchedAt time.Time
}
