//go:build failpoints

package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// failpointEnv is the environment variable that says at which point this process ends, and at which pass of the point:
// "apply/frozen:before:1". There is a point before and after each durable write and each send. The process writes every
// point that it passes to standard error, so that a test can check that it knows all of them.
const failpointEnv = "MIMI_FAILPOINT"

// clockEnv is the environment variable with the name of a file. The file says how far this process's clock is ahead, as
// a Go duration: "-10m". The clock reads it each time, so a test can make the clock jump: it renames a new file to that
// name. No file, or an empty file, is a correct clock.
const clockEnv = "MIMI_CLOCK"

// clock returns the time for the whole module. Only measurements of durations do not use it.
func clock() time.Time {
	text, err := os.ReadFile(os.Getenv(clockEnv))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(text) == 0 {
		return time.Now()
	}
	if err != nil {
		panic(err)
	}
	ahead, err := time.ParseDuration(string(text))
	if err != nil {
		panic(err) // a test that is written wrongly
	}
	return time.Now().Add(ahead)
}

// instrument adds fail points to the store and the sender.
func instrument(store storage.Store, sender delivery.Sender) (storage.Store, delivery.Sender) {
	f := new(failpoints)
	if at := strings.LastIndex(os.Getenv(failpointEnv), ":"); at >= 0 {
		n, err := strconv.ParseInt(os.Getenv(failpointEnv)[at+1:], 10, 64)
		if err != nil {
			panic(err) // a test that is written wrongly
		}
		f.point = os.Getenv(failpointEnv)[:at]
		f.left.Store(n)
	}
	return &failingStore{reads: store, store: store, at: f}, &failingSender{sender, f}
}

// failpoints is the one point at which the process ends.
type failpoints struct {
	point string
	left  atomic.Int64
}

// around runs an action that leaves a trace outside of this process's memory, between its two points.
func (f *failpoints) around(name string, do func() error) error {
	f.pass(name + ":before")
	err := do()
	if err == nil { // a failed action leaves no trace, like the point before it
		f.pass(name + ":after")
	}
	return err
}

func (f *failpoints) pass(point string) {
	fmt.Fprintln(os.Stderr, "failpoint", point)
	if point == f.point && f.left.Add(-1) == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // until the signal arrives
	}
}

// reads are the methods of a storage.Store that leave no trace. If a method is neither here nor below, this file does
// not compile.
type reads interface {
	storage.Groups
	storage.Log
	storage.Migrations
	Due(ctx context.Context, now time.Time, limit int, lanes ...[]string) (rows []storage.Row, next time.Time, err error)
	storage.FanOuts
	storage.DrainReads
	Rows(ctx context.Context, from storage.RowKey, limit int) ([]storage.Row, error)
	Claim(ctx context.Context, key storage.RowKey) (release func(), err error)
	Setting(ctx context.Context, name string) (json.RawMessage, error)
	KeyObjects(ctx context.Context, server string) ([]storage.KeyObject, error)
	LastResorts(ctx context.Context, userID string) ([]storage.LastResort, error)
	AuditEntries(ctx context.Context, before storage.AuditID, limit int) ([]storage.AuditEntry, error)
	Figures(ctx context.Context) (*storage.Figures, error)
	Close() error
}

// failingStore is a storage.Store with a point before and after each write transaction.
type failingStore struct {
	reads
	store storage.Store
	at    *failpoints
}

func (s *failingStore) Apply(ctx context.Context, c *storage.Change) error {
	return s.at.around("apply/"+transition(c), func() error { return s.store.Apply(ctx, c) })
}

// transition names a change by the new state of its migration, else by the new state of its group.
func transition(c *storage.Change) string {
	switch {
	case c.Migration != nil:
		return string(c.Migration.State)
	case len(c.Entries) > 0:
		return string(c.Entries[0].Kind)
	case len(c.Evidence) > 0:
		return "evidence"
	case c.Drop != nil:
		return "purge"
	case c.Group != nil:
		return "group-" + string(c.Group.State)
	case len(c.Snapshots) > 0:
		return "snapshot"
	case len(c.Rows) > 0 && c.Rows[0].Kind == storage.RowAnnounce:
		return "announcement"
	case len(c.Rows) > 0:
		return "rows"
	}
	return "done"
}

func (s *failingStore) Retry(ctx context.Context, key storage.RowKey, attempts int, due time.Time) error {
	return s.at.around("retry", func() error { return s.store.Retry(ctx, key, attempts, due) })
}

func (s *failingStore) Hasten(ctx context.Context, now time.Time) error {
	return s.at.around("hasten", func() error { return s.store.Hasten(ctx, now) })
}

func (s *failingStore) UseNonce(ctx context.Context, n *storage.Nonce) error {
	return s.at.around("nonce", func() error { return s.store.UseNonce(ctx, n) })
}

func (s *failingStore) PutSetting(ctx context.Context, name string, value json.RawMessage) error {
	return s.at.around("setting", func() error { return s.store.PutSetting(ctx, name, value) })
}

func (s *failingStore) AddSetting(ctx context.Context, name string,
	value json.RawMessage) (stored json.RawMessage, err error) {
	err = s.at.around("setting", func() error {
		stored, err = s.store.AddSetting(ctx, name, value)
		return err
	})
	return stored, err
}

func (s *failingStore) KeepKeyObject(ctx context.Context, k *storage.KeyObject) error {
	return s.at.around("key-object", func() error { return s.store.KeepKeyObject(ctx, k) })
}

func (s *failingStore) PutLastResort(ctx context.Context, l *storage.LastResort) error {
	return s.at.around("last-resort", func() error { return s.store.PutLastResort(ctx, l) })
}

func (s *failingStore) DropLastResort(ctx context.Context, userID, deviceID string) error {
	return s.at.around("last-resort", func() error { return s.store.DropLastResort(ctx, userID, deviceID) })
}

func (s *failingStore) PutAudit(ctx context.Context, e *storage.AuditEntry) error {
	return s.at.around("audit", func() error { return s.store.PutAudit(ctx, e) })
}

func (s *failingStore) FillDrain(ctx context.Context, due time.Time) error {
	return s.at.around("drain", func() error { return s.store.FillDrain(ctx, due) })
}

func (s *failingStore) HastenDrain(ctx context.Context, id []byte, due time.Time) error {
	return s.at.around("drain", func() error { return s.store.HastenDrain(ctx, id, due) })
}

func (s *failingStore) ClearDrain(ctx context.Context) error {
	return s.at.around("drain", func() error { return s.store.ClearDrain(ctx) })
}

func (s *failingStore) PutDrain(ctx context.Context, groups []storage.DrainGroup) error {
	return s.at.around("drain", func() error { return s.store.PutDrain(ctx, groups) })
}

func (s *failingStore) Forget(ctx context.Context, before storage.Horizon) error {
	return s.at.around("forget", func() error { return s.store.Forget(ctx, before) })
}

// failingSender is a delivery.Sender with a point before and after each request.
type failingSender struct {
	sender delivery.Sender
	at     *failpoints
}

func (s *failingSender) ToDevice(ctx context.Context, from, to string, events []api.DeviceEvent) (
	arrived int, err error) {
	err = s.at.around("send/to-device", func() error {
		arrived, err = s.sender.ToDevice(ctx, from, to, events)
		return err
	})
	return arrived, err
}

func (s *failingSender) PutContent(ctx context.Context, from, to string,
	c *api.ContentUpload) (vote *api.SignedRequest, err error) {
	err = s.at.around("send/content", func() error {
		vote, err = s.sender.PutContent(ctx, from, to, c)
		return err
	})
	return vote, err
}

func (s *failingSender) PutConfirmation(ctx context.Context, from, to string, id mimiport.MigrationID,
	m *api.SignedRequest) error {
	return s.at.around("send/confirmation", func() error { return s.sender.PutConfirmation(ctx, from, to, id, m) })
}

func (s *failingSender) PutAbort(ctx context.Context, from, to string, id mimiport.MigrationID,
	m *api.SignedRequest) error {
	return s.at.around("send/abort", func() error { return s.sender.PutAbort(ctx, from, to, id, m) })
}

func (s *failingSender) PutLineage(ctx context.Context, from, to string, groupID []byte,
	req *api.LineageRequest) error {
	return s.at.around("send/lineage", func() error { return s.sender.PutLineage(ctx, from, to, groupID, req) })
}

func (s *failingSender) AskIntake(ctx context.Context, from, to, roomID string,
	servers []string) (in *api.Intake, err error) {
	err = s.at.around("send/intake", func() error {
		in, err = s.sender.AskIntake(ctx, from, to, roomID, servers)
		return err
	})
	return in, err
}

func (s *failingSender) AskStatus(ctx context.Context, from, to string,
	id mimiport.MigrationID) (st *api.MigrationStatus, err error) {
	err = s.at.around("send/status", func() error {
		st, err = s.sender.AskStatus(ctx, from, to, id)
		return err
	})
	return st, err
}
