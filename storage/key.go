package storage

import "time"

// A store keeps at most MaxKeyObjects key objects, and of one server MaxKeyObjectsOfServer: those that were fetched
// last.
const (
	MaxKeyObjects         = 1024
	MaxKeyObjectsOfServer = 16
)

// KeyObject is a signed key object of another server that publishes a key, as this server has fetched it.
type KeyObject struct {
	Server    string
	KeyID     string
	Object    []byte // JSON
	FetchedAt time.Time
}
