package storage

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// ErrNotFound and ErrConflict are what a Store returns besides its own failures. A conflict means that nothing was
// written because a row is not, or no longer, what the change expected: load again.
var (
	ErrNotFound = errors.New("storage: not found")
	ErrConflict = errors.New("storage: conflict")
)

// Horizon says what a store may forget: what is older. A zero time is for nothing.
type Horizon struct {
	Log      time.Time // messages accepted before, but for the handshakes that a group is replayed from
	Offers   time.Time // this server's offers that expired before and that nobody took up
	Evidence time.Time // evidence found before
	Nonces   time.Time // nonces used before
}

// Store keeps everything that this module must not forget. A reader that needs a part of it names that part. Reads
// return ErrNotFound for a single thing that is not there. A failed Apply that is neither ErrConflict nor a *LimitError
// may have been written or not: load again.
type Store interface {
	// A *LimitError names the limit of the change that is not kept.
	Apply(ctx context.Context, c *Change) error

	Groups
	Log
	Migrations
	Queue
	Settings
	KeyObjects
	Nonces

	// Forget deletes what lies before a horizon. It holds nobody up for long.
	Forget(ctx context.Context, before Horizon) error

	Close() error
}

// Groups is where groups stand on this server.
type Groups interface {
	Group(ctx context.Context, id []byte) (*Group, error) // of the highest term that is not dropped
	GroupAt(ctx context.Context, key GroupKey) (*Group, error)
	Groups(ctx context.Context, after []byte, limit int) ([]Group, error) // highest terms, by id
	// GroupsInRoom lists the groups bound to a room, highest terms.
	GroupsInRoom(ctx context.Context, roomID string) ([]Group, error)
	// Evidence lists what is kept about a group, oldest first.
	Evidence(ctx context.Context, groupID []byte) ([]Evidence, error)
}

// Log is what a group's state is replayed from.
type Log interface {
	// Snapshot is the latest of the term at or before an epoch.
	Snapshot(ctx context.Context, key GroupKey, epoch uint64) (*Snapshot, error)
	// Entries are those numbered from and up, in order, at most limit, and none after those that have EntriesBytes
	// together.
	Entries(ctx context.Context, key GroupKey, from uint64, limit int) ([]Entry, error)
	// Handshakes are Entries without all but the proposals and Commits.
	Handshakes(ctx context.Context, key GroupKey, from uint64, limit int) ([]Entry, error)
	// Latest are the last Entries but for application messages, in order, at most limit, and none before those that have
	// EntriesBytes together.
	Latest(ctx context.Context, key GroupKey, limit int) ([]Entry, error)
	EntryByHash(ctx context.Context, key GroupKey, hash [32]byte) (*Entry, error)
	// Receipts are those of a term for an epoch and later ones, in order, at most limit.
	Receipts(ctx context.Context, from Epoch, limit int) ([]Receipt, error)
	// Former is what came with the group in a term.
	Former(ctx context.Context, key GroupKey) (*Former, error)
}

// Migrations is what this server has offered, sent and decided.
type Migrations interface {
	Migration(ctx context.Context, id mimiport.MigrationID) (*migration.Migration, error)
	// Migrations are in the order of their ids.
	Migrations(ctx context.Context, f MigrationFilter, after mimiport.MigrationID,
		limit int) ([]migration.Migration, error)
	// CommitAborted says whether a Commit with this SHA-256 belonged to an aborted migration of the group.
	CommitAborted(ctx context.Context, groupID []byte, hash []byte) (bool, error)
	Content(ctx context.Context, id mimiport.MigrationID) ([]byte, error)
}

// Queue is what is to be done.
type Queue interface {
	// Due lists the first row of every queue that has one due, and tells when the next one becomes due after now, zero
	// for never. The destinations of each list in lanes are a lane, and all other destinations are the last lane. Each
	// lane shows its first rows, at most limit of them. Destinations take turns: the first row of each precedes the
	// second row of any.
	Due(ctx context.Context, now time.Time, limit int, lanes ...[]string) (rows []Row, next time.Time, err error)
	// Claim keeps a listed row, and its queue, from other processes on the same database until it is released or this
	// process ends. It returns ErrConflict while another process has the queue, and ErrNotFound when the row is no longer
	// the first of it.
	Claim(ctx context.Context, key RowKey) (release func(), err error)
	// Retry puts a row off.
	Retry(ctx context.Context, key RowKey, attempts int, due time.Time) error
	// Hasten makes every row except purges and ends due now if it is due later than now + MaxWait. It is for a clock that
	// has gone back, and looks at all rows.
	Hasten(ctx context.Context, now time.Time) error
}

// Settings are small named JSON values: the policy that an operator has set, this server's keys.
type Settings interface {
	Setting(ctx context.Context, name string) (json.RawMessage, error)
	PutSetting(ctx context.Context, name string, value json.RawMessage) error
	// AddSetting stores a value unless there is one, and returns what is stored.
	AddSetting(ctx context.Context, name string, value json.RawMessage) (json.RawMessage, error)
}

// KeyObjects is what other servers have published.
type KeyObjects interface {
	// KeyObjects lists those of a server, the one that was fetched last first.
	KeyObjects(ctx context.Context, server string) ([]KeyObject, error)
	// KeepKeyObject stores one in the place of an earlier one of the same key. Beyond the limits the oldest go.
	KeepKeyObject(ctx context.Context, k *KeyObject) error
}

// Nonces are those of the requests that devices have signed.
type Nonces interface {
	// UseNonce stores a nonce. One that the device has used within NonceLife is ErrConflict. A device that has used
	// MaxNonces within that time is a *LimitError.
	UseNonce(ctx context.Context, n *Nonce) error
}
