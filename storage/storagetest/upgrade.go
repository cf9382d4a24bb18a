package storagetest

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"math"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// frozen has dumps of databases that earlier versions of this program wrote. There is one for each schema and engine.
// Each has a row in every table.
//
//go:embed testdata/schema-*.sql
var frozen embed.FS

// RunUpgrades opens every dump of an engine ("sqlite" or "postgres") with the present program, and fails unless all of
// it is there. restore makes a database from a dump's SQL.
func RunUpgrades(t *testing.T, engine string, restore func(t *testing.T, dump string) Opener) {
	dumps, err := fs.Glob(frozen, "testdata/schema-*."+engine+".sql")
	if err != nil || len(dumps) == 0 {
		t.Fatal("no dumps", err)
	}
	want := &fixture{Store: memory.New(), t: t}
	kept := everything("frozen", 1, 0, 0)
	// Earlier versions wrote none of these.
	kept.Receipt, kept.Former, kept.FanOuts, kept.Setting = nil, nil, nil, nil
	kept.Migration.Refused, kept.Migration.Vote = 0, nil
	kept.Migration.UpdatedAt, kept.Rows[0].Created, kept.Group.Members = time.Time{}, time.Time{}, 0
	kept.Rows[0].Body = nil
	want.apply(kept)
	for _, name := range dumps {
		t.Run(name, func(t *testing.T) {
			sql, err := frozen.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			upgraded := newFixture(t, func(testing.TB) Opener { return restore(t, string(sql)) })
			expect(t, "upgraded", dump(t, upgraded), nil, dump(t, want))
			requireCounts(t, upgraded.Store)
			value, err := upgraded.Setting(t.Context(), "name")
			expect(t, "setting", string(value), err, `{"a":1}`)
			upgraded.apply(everything("after", 2, 1, 1))
			requireCounts(t, upgraded.Store)
		})
	}
}

// Fill inserts a row into every table of an empty store, and returns its Dump.
func Fill(t testing.TB, s storage.Store) any {
	t.Helper()
	f := &fixture{Store: s, t: t}
	c := everything("filled", 1, 0, 0)
	c.Volume = &storage.Volume{GroupKey: c.Group.Key(), UserID: "@alice:a.example", Day: 1, Bytes: 10}
	f.apply(c)
	if err := s.PutSetting(t.Context(), "name", []byte(`{"a":1}`)); err != nil {
		t.Fatal(err)
	}
	f.keep(sampleKeyObject("a.example", "ed25519:a", 1))
	if err := s.UseNonce(t.Context(), sampleNonce("PHONE", 1, epoch)); err != nil {
		t.Fatal(err)
	}
	f.publish(sampleLastResort("@alice:a.example", "PHONE", `{"b":2}`))
	act := sampleAudit(1)
	if err := s.PutAudit(t.Context(), &act); err != nil {
		t.Fatal(err)
	}
	if err := s.PutDrain(t.Context(), []storage.DrainGroup{sampleDrainGroup("group")}); err != nil {
		t.Fatal(err)
	}
	return dump(t, s)
}

// Dump returns everything that Fill wrote, for a comparison.
func Dump(t testing.TB, s storage.Store) any { return dump(t, s) }

func testHandshakes(t *testing.T, f *fixture) {
	kinds := []storage.EntryKind{
		storage.EntryApplication, storage.EntryProposal, storage.EntryCommit, storage.EntryWelcome, storage.EntryApplication,
		storage.EntryCommit,
	}
	var log, handshakes []storage.Entry
	for i, kind := range kinds {
		e := sampleEntry("group", 1, uint64(i)+1)
		e.Kind = kind
		log = append(log, e)
		if kind == storage.EntryProposal || kind == storage.EntryCommit {
			handshakes = append(handshakes, e)
		}
	}
	f.apply(&storage.Change{Entries: append(log, sampleEntry("other", 1, 3))})
	for _, test := range []struct {
		from  uint64
		limit int
		want  []storage.Entry
	}{{0, 9, handshakes}, {0, 2, handshakes[:2]}, {3, 9, handshakes[1:]}, {7, 9, nil}} {
		got, err := f.Handshakes(t.Context(), key("group", 1), test.from, test.limit)
		expect(t, fmt.Sprint(test.from, test.limit), got, err, test.want)
	}
}

// testLatest: Latest returns the end of a log, whatever lies between.
func testLatest(t *testing.T, f *fixture) {
	kinds := []storage.EntryKind{
		storage.EntryProposal, storage.EntryCommit, storage.EntryWelcome, storage.EntryApplication, storage.EntryCommit,
		storage.EntryApplication,
	}
	var log, want []storage.Entry
	for i, kind := range kinds {
		e := sampleEntry("group", 1, uint64(i)+1)
		e.Kind = kind
		log = append(log, e)
		if kind != storage.EntryApplication {
			want = append(want, e)
		}
	}
	f.apply(&storage.Change{
		Entries: append(log, sampleEntry("group", 0, 9), sampleEntry("group", 2, 1), sampleEntry("other", 1, 9)),
	})
	for limit, want := range [][]storage.Entry{nil, want[3:], want[2:], want[1:], want, want} {
		got, err := f.Latest(t.Context(), key("group", 1), limit)
		expect(t, fmt.Sprint(limit), got, err, want)
	}
	got, err := f.Latest(t.Context(), key("group", math.MaxUint64), 9)
	expect(t, "of a term that cannot be", got, err, nil)
}

// testEntriesBytes: a store reads at most about EntriesBytes of a log at a time.
func testEntriesBytes(t *testing.T, f *fixture) {
	const large = storage.EntriesBytes/2 - 1
	for seq := range uint64(4) {
		e := sampleEntry("group", 1, seq)
		e.Message = append(make([]byte, large), byte(seq))
		e.GroupInfo = nil
		e.Hash[0] = byte(seq)
		f.apply(&storage.Change{Entries: []storage.Entry{e}})
	}
	for name, read := range map[string]func(context.Context, storage.GroupKey, uint64, int) ([]storage.Entry, error){
		"entries": f.Entries, "handshakes": f.Handshakes,
		"latest": func(ctx context.Context, key storage.GroupKey, from uint64, limit int) ([]storage.Entry, error) {
			return f.Latest(ctx, key, min(limit, 4-int(from)))
		},
	} {
		got, err := read(t.Context(), key("group", 1), 0, 100)
		expect(t, name, len(got), err, 2)
		got, err = read(t.Context(), key("group", 1), 3, 100)
		expect(t, name+", the last", len(got), err, 1)
	}
}
