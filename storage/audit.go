package storage

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// AuditID identifies an entry of the audit log: its time in microseconds, then 8 random bytes. Ids are in the order of
// time.
type AuditID [16]byte

// NewAuditID makes an id from a time and 8 random bytes.
func NewAuditID(at time.Time, random [8]byte) (id AuditID) {
	binary.BigEndian.PutUint64(id[:], uint64(at.UnixMicro()))
	copy(id[8:], random[:])
	return id
}

// String is the id in base64url.
func (id AuditID) String() string { return mimiport.IDText(id[:]) }

// AuditAction is the kind of an act in the audit log.
type AuditAction string

// The actions. All but AuditPurge are acts of operators.
const (
	AuditPolicy  AuditAction = "policy"
	AuditReclaim AuditAction = "reclaim"
	AuditRecover AuditAction = "recover"
	AuditYield   AuditAction = "yield"
	AuditRemove  AuditAction = "remove"
	AuditDrop    AuditAction = "drop"
	AuditDrain   AuditAction = "drain"
	AuditPurge   AuditAction = "purge" // this server deletes the state of a group whose retention is over
)

// AuditEntry is one act that changed this server's rules or its groups. A store keeps it for good.
type AuditEntry struct {
	ID        AuditID
	At        time.Time
	Actor     string // the user, or the server itself
	Action    AuditAction
	GroupID   []byte               // nil for none
	Migration mimiport.MigrationID // zero for none
	Before    json.RawMessage      // the state before the act; nil for none
	After     json.RawMessage      // the state after the act, or its error; nil for an act that has not ended
}

// Audit has the audit log.
type Audit interface {
	// PutAudit stores an entry in the place of an earlier one with the same id.
	PutAudit(ctx context.Context, e *AuditEntry) error
	// AuditEntries lists at most limit entries, the latest first, from the one before an id on. The zero id is no bound.
	AuditEntries(ctx context.Context, before AuditID, limit int) ([]AuditEntry, error)
}
