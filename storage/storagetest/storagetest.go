// Package storagetest is the suite that every storage.Store must pass.
package storagetest

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Opener opens a store, the same one each time. The caller closes it.
type Opener func() (storage.Store, error)

// Run checks the stores that fresh makes. Each must be empty, and must be gone when the test ends.
func Run(t *testing.T, fresh func(testing.TB) Opener) {
	tests := []struct {
		name string
		run  func(*testing.T, *fixture)
	}{
		{"Group", testGroup},
		{"Groups", testGroups},
		{"GroupFilter", testGroupFilter},
		{"LastCommit", testLastCommit},
		{"Figures", testFigures},
		{"Audit", testAudit},
		{"Drain", testDrain},
		{"Snapshot", testSnapshot},
		{"Entries", testEntries},
		{"Receipts", testReceipts},
		{"Handshakes", testHandshakes},
		{"Latest", testLatest},
		{"EntriesBytes", testEntriesBytes},
		{"Drop", testDrop},
		{"DropBefore", testDropBefore},
		{"Forget", testForget},
		{"Migration", testMigration},
		{"Migrations", testMigrations},
		{"CommitAborted", testCommitAborted},
		{"Content", testContent},
		{"Evidence", testEvidence},
		{"Settings", testSettings},
		{"KeyObjects", testKeyObjects},
		{"Nonces", testNonces},
		{"NoncesOfOneDevice", testNoncesOfOneDevice},
		{"RacingNonces", testRacingNonces},
		{"LastResorts", testLastResorts},
		{"Due", testDue},
		{"DueTurns", testDueTurns},
		{"DueLanes", testDueLanes},
		{"Retry", testRetry},
		{"Hasten", testHasten},
		{"Rows", testRows},
		{"FanOuts", testFanOuts},
		{"LargeChange", testLargeChange},
		{"Atomic", testAtomic},
		{"Range", testRange},
		{"Canceled", testCanceled},
		{"RacingGroup", testRacingGroup},
		{"RacingQueue", testRacingQueue},
		{"LimitGroups", testLimitGroups},
		{"CountsFollow", testCountsFollow},
		{"LimitMigrations", testLimitMigrations},
		{"LimitVolume", testLimitVolume},
		{"LimitAtomic", testLimitAtomic},
		{"RacingLimits", testRacingLimits},
		{"Reopen", testReopen},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.run(t, newFixture(t, fresh)) })
	}
}

// fixture is the store of one test.
type fixture struct {
	storage.Store
	t    testing.TB
	open Opener
}

func newFixture(t testing.TB, fresh func(testing.TB) Opener) *fixture {
	f := &fixture{t: t, open: fresh(t)}
	f.start()
	t.Cleanup(f.stop)
	return f
}

func (f *fixture) start() {
	f.t.Helper()
	store, err := f.open()
	if err != nil {
		f.t.Fatal(err)
	}
	f.Store = store
}

func (f *fixture) stop() {
	if err := f.Close(); err != nil {
		f.t.Errorf("close: %v", err)
	}
}

// epoch is the time at which the tests begin.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// apply applies a change that must succeed.
func (f *fixture) apply(c *storage.Change) {
	f.t.Helper()
	if err := f.Apply(f.t.Context(), c); err != nil {
		f.t.Fatalf("apply: %v", err)
	}
}

// refuse applies a change that must be a conflict.
func (f *fixture) refuse(c *storage.Change) {
	f.t.Helper()
	if err := f.Apply(f.t.Context(), c); !errors.Is(err, storage.ErrConflict) {
		f.t.Fatalf("apply: %v, want a conflict", err)
	}
}

// expect compares a result with the wanted one.
func expect[T any](t testing.TB, what string, got T, err error, want T) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if reflect.DeepEqual(want, got) {
		return // DeepEqual is faster than cmp.Diff
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// absent fails the test unless the error is ErrNotFound.
func absent(t testing.TB, what string, err error) {
	t.Helper()
	if !errors.Is(err, storage.ErrNotFound) {
		t.Fatalf("%s: %v, want not found", what, err)
	}
}

// complete fails the test if a sample has a zero field. So a store that forgets a field is found out.
func complete[T any](t testing.TB, sample T) T {
	t.Helper()
	v := reflect.ValueOf(sample)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Fatalf("the sample of %T has no value for %s", sample, v.Type().Field(i).Name)
		}
	}
	return sample
}

// bytesOf returns bytes that depend on the name only.
func bytesOf(name string) []byte {
	sum := sha256.Sum256([]byte(name))
	return sum[:]
}

func migrationID(n uint64) (id mimiport.MigrationID) {
	binary.BigEndian.PutUint64(id[:], n)
	return id
}

func sampleGroup(id string, term uint64) storage.Group {
	return storage.Group{
		ID: []byte(id), Term: term, State: migration.GroupActive, Server: "a.example", RoomID: "!room:a.example",
		Creator: "@creator:a.example", Protocol: "mls10", CipherSuite: math.MaxUint16, Epoch: math.MaxInt64, NextSeq: 2,
		Migration: migrationID(7), Members: 5, Lineage: bytesOf("lineage"), CreatedAt: epoch,
	}
}

func sampleSnapshot(id string, term, epoch uint64) storage.Snapshot {
	return storage.Snapshot{GroupID: []byte(id), Term: term, Epoch: epoch, Seq: 3 * epoch, GroupInfo: bytesOf("info"),
		RatchetTree: bytesOf("tree")}
}

func sampleEntry(id string, term, seq uint64) storage.Entry {
	message := binary.BigEndian.AppendUint64([]byte(id), seq)
	m := migrationID(9)
	return storage.Entry{
		GroupID: []byte(id), Term: term, Seq: seq, Epoch: 4, Kind: storage.EntryCommit, Sender: "@sender:b.example",
		Hash: sha256.Sum256(message), Message: message, GroupInfo: bytesOf("info"),
		Recipients: []mimiport.LeafIdentity{{UserID: "@a:a.example", DeviceID: "A"},
			{UserID: "@b:b.example", DeviceID: "B \x00\xff"}},
		Migration: &m, At: epoch.Add(time.Duration(seq) * time.Millisecond),
	}
}

func sampleReceipt(id string, term, epoch uint64) storage.Receipt {
	return storage.Receipt{
		GroupID: []byte(id), Term: term, Epoch: epoch, Seq: 2 * epoch, CommitHash: [32]byte(bytesOf("commit")),
		KeyID: "ed25519:r", Signature: bytesOf("signature"),
	}
}

func sampleFormer(id string, term uint64, name string) storage.Former {
	return storage.Former{GroupKey: key(id, term), Data: bytesOf(name)}
}

func sampleMigration(n uint64) migration.Migration {
	signed := func(name string) migration.Signed {
		return migration.Signed{Message: bytesOf(name), KeyID: "ed25519:" + name, KeyObject: bytesOf(name + " key")}
	}
	return migration.Migration{
		ID: migrationID(n), Role: migration.Source, State: migration.Frozen, GroupID: []byte("group"),
		RoomID: "!room:a.example", Term: 1, Source: "a.example", Target: "b.example", User: "@user:a.example", ByAdmin: true,
		Epoch: 5, CreatedAt: epoch.Add(time.Duration(n) * time.Second), UpdatedAt: epoch.Add(time.Hour),
		ContentKey: "ed25519:content",
		ExpiresAt:  epoch.Add(time.Minute), DecideBy: epoch.Add(time.Second), CommitHash: bytesOf("commit"),
		ContentHash: bytesOf("content"), Response: signed("response"), Complete: signed("complete"),
		Vote: bytesOf("vote"), Confirmation: signed("confirmation"), Abort: signed("abort"),
		Reason: "за́чем? \"'\n", Refused: 2,
	}
}

func sampleEvidence(id string, n uint64) storage.Evidence {
	return storage.Evidence{
		GroupID: []byte(id), Migration: migrationID(n), Kind: migration.EvidenceHigherTerm, Data: bytesOf("evidence"),
		KeyID: "ed25519:e", At: epoch,
	}
}

func sampleRow(destination, queue string, order uint64) storage.Row {
	return storage.Row{
		Destination: destination, Queue: queue, Order: order, Kind: storage.RowFanOut, GroupID: []byte("group"), Term: 1,
		Seq: 2, Migration: migrationID(3), Due: epoch, Created: epoch, Attempts: 4, Body: []byte("{}"),
	}
}

func sampleFanOut(id string, term, seq uint64) storage.FanOut {
	return storage.FanOut{
		GroupKey: key(id, term), Seq: seq, At: epoch.Add(time.Duration(seq) * time.Millisecond),
		Servers: []string{"a.example", "b.example"},
	}
}
