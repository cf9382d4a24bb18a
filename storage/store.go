package storage

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// Reads of a single thing return ErrNotFound if it is absent. Writes return ErrConflict if a row is not, or no longer,
// as the change expects it. After an ErrConflict nothing is written, and the caller loads again.
var (
	ErrNotFound = errors.New("storage: not found")
	ErrConflict = errors.New("storage: conflict")
)

// Horizon bounds what a store may forget. A zero time forgets nothing.
type Horizon struct {
	Log      time.Time // messages accepted earlier, except the handshakes that a replay needs
	Offers   time.Time // offers of this server that expired earlier and that nobody used
	Evidence time.Time // evidence found earlier
	Nonces   time.Time // nonces used earlier
}

// Store keeps everything that this module must not forget. A caller that needs only a part takes an interface of that
// part. If Apply fails with neither ErrConflict nor a *LimitError, the change may be written or not, and the caller
// loads again.
type Store interface {
	// Apply writes a change. A *LimitError names the limit that the change breaks.
	Apply(ctx context.Context, c *Change) error

	Groups
	Log
	Migrations
	Queue
	FanOuts
	Settings
	KeyObjects
	Nonces
	LastResorts
	Audit
	Drains

	// Figures counts everything. It reads all groups, migrations and rows.
	Figures(ctx context.Context) (*Figures, error)

	// Forget deletes everything that is older than the horizon. It works in small steps, so other calls never wait long.
	Forget(ctx context.Context, before Horizon) error

	Close() error
}

// Groups has the groups on this server, and the evidence about them.
type Groups interface {
	Group(ctx context.Context, id []byte) (*Group, error) // in the highest term that is not dropped
	GroupAt(ctx context.Context, key GroupKey) (*Group, error)
	// Groups lists at most limit groups with ids after a given one, by id. Each counts in its highest term that is not
	// dropped.
	Groups(ctx context.Context, f GroupFilter, after []byte, limit int) ([]Group, error)
	// CountGroups returns how many groups Groups lists.
	CountGroups(ctx context.Context, f GroupFilter) (int, error)
	// Evidence lists the evidence about a group, oldest first.
	Evidence(ctx context.Context, groupID []byte) ([]Evidence, error)
	// AllEvidence lists at most limit pieces of evidence, by key, after a key. The zero key precedes all.
	AllEvidence(ctx context.Context, f EvidenceFilter, after EvidenceKey, limit int) ([]Evidence, error)
}

// Log has the messages of a group, and the snapshots for their replay.
type Log interface {
	// Snapshot returns the latest snapshot of the term at or before an epoch.
	Snapshot(ctx context.Context, key GroupKey, epoch uint64) (*Snapshot, error)
	// Entries returns the entries from a number on, in order. It stops after limit entries, or after the entry with which
	// they have EntriesBytes together.
	Entries(ctx context.Context, key GroupKey, from uint64, limit int) ([]Entry, error)
	// Handshakes is Entries for proposals and Commits only.
	Handshakes(ctx context.Context, key GroupKey, from uint64, limit int) ([]Entry, error)
	// Latest returns the last entries except application messages, in order. Like Entries, it stops at limit or
	// EntriesBytes, counted from the end.
	Latest(ctx context.Context, key GroupKey, limit int) ([]Entry, error)
	// LastCommit returns the time of a term's last Commit in the log, or zero.
	LastCommit(ctx context.Context, key GroupKey) (time.Time, error)
	EntryByHash(ctx context.Context, key GroupKey, hash [32]byte) (*Entry, error)
	// Receipts returns at most limit receipts of a term, in order, from an epoch on.
	Receipts(ctx context.Context, from Epoch, limit int) ([]Receipt, error)
	// Former returns the data of former terms that came with the group in this term.
	Former(ctx context.Context, key GroupKey) (*Former, error)
}

// Migrations has the migrations in which this server is source or target.
type Migrations interface {
	Migration(ctx context.Context, id mimiport.MigrationID) (*migration.Migration, error)
	// Migrations returns at most limit migrations in the order of their ids, after an id.
	Migrations(ctx context.Context, f MigrationFilter, after mimiport.MigrationID,
		limit int) ([]migration.Migration, error)
	// CommitAborted reports whether the Commit with this SHA-256 belongs to an aborted migration of the group.
	CommitAborted(ctx context.Context, groupID []byte, hash []byte) (bool, error)
	Content(ctx context.Context, id mimiport.MigrationID) ([]byte, error)
}

// Queue has the rows, which are the tasks of this server.
type Queue interface {
	// Due lists the first row of every queue if that row is due. It also returns the next time after now at which a first
	// row becomes due; zero is never. Each list in lanes is a lane of destinations. All other destinations form the last
	// lane. Due returns at most limit rows for each lane. Destinations take turns: the first row of each destination
	// precedes the second row of any.
	Due(ctx context.Context, now time.Time, limit int, lanes ...[]string) (rows []Row, next time.Time, err error)
	// Claim reserves a row and its queue for this process. Other processes on the same database cannot claim the queue
	// until release or the end of this process. The error is ErrConflict while another process has the queue, and
	// ErrNotFound if the row is no longer the first of its queue.
	Claim(ctx context.Context, key RowKey) (release func(), err error)
	// Rows returns at most limit rows of a queue, in order. The row with the key is the first.
	Rows(ctx context.Context, from RowKey, limit int) ([]Row, error)
	// Retry sets the attempts of a row and puts it off until due.
	Retry(ctx context.Context, key RowKey, attempts int, due time.Time) error
	// Hasten makes every row except purges and ends due now if it is due later than now + MaxWait. Callers use it after
	// the clock went back. It reads all rows.
	Hasten(ctx context.Context, now time.Time) error
}

// Settings are small named JSON values, such as the operator's policy and this server's keys.
type Settings interface {
	Setting(ctx context.Context, name string) (json.RawMessage, error)
	PutSetting(ctx context.Context, name string, value json.RawMessage) error
	// AddSetting stores a value unless there is one. It returns the stored value.
	AddSetting(ctx context.Context, name string, value json.RawMessage) (json.RawMessage, error)
}

// KeyObjects has the key objects of other servers.
type KeyObjects interface {
	// KeyObjects lists the key objects of a server, the last fetched first.
	KeyObjects(ctx context.Context, server string) ([]KeyObject, error)
	// KeepKeyObject stores a key object and replaces an earlier one of the same key. Beyond the limits, it deletes the
	// oldest.
	KeepKeyObject(ctx context.Context, k *KeyObject) error
}

// Nonces has the nonces of the requests that devices signed.
type Nonces interface {
	// UseNonce stores a nonce. The error is ErrConflict if the device used the nonce within NonceLife, and a *LimitError
	// if the device used MaxNonces nonces within that time.
	UseNonce(ctx context.Context, n *Nonce) error
}

// LastResorts are the KeyPackages of last resort of this server's users.
type LastResorts interface {
	// LastResorts lists those of a user, by device.
	LastResorts(ctx context.Context, userID string) ([]LastResort, error)
	// PutLastResort stores one in the place of an earlier one of the device. One more than MaxLastResorts of a user is a
	// *LimitError.
	PutLastResort(ctx context.Context, l *LastResort) error
	// DropLastResort deletes that of a device, if there is one.
	DropLastResort(ctx context.Context, userID, deviceID string) error
}
