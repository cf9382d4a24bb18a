package storagetest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

func key(id string, term uint64) storage.GroupKey {
	return storage.GroupKey{ID: []byte(id), Term: term}
}

func testGroup(t *testing.T, f *fixture) {
	ctx := t.Context()
	_, err := f.Group(ctx, []byte("group"))
	absent(t, "no group", err)

	first := sampleGroup("group", 1)
	f.apply(&storage.Change{Group: &first})
	if first.Version != 0 {
		t.Fatal("Apply changed its argument")
	}
	stored := first
	stored.Version = 1
	complete(t, stored)
	got, err := f.Group(ctx, first.ID)
	expect(t, "inserted", got, err, &stored)

	f.refuse(&storage.Change{Group: &first}) // the row exists
	stale := stored
	stale.Version = 2
	f.refuse(&storage.Change{Group: &stale}) // the row has another version
	other := sampleGroup("other", 1)
	other.Version = 1
	f.refuse(&storage.Change{Group: &other}) // there is no row

	next := storage.Group{ID: first.ID, Term: 1, Version: 1, State: migration.GroupMoved, CreatedAt: epoch}
	f.apply(&storage.Change{Group: &next})
	next.Version = 2
	got, err = f.Group(ctx, first.ID)
	expect(t, "replaced", got, err, &next)

	later := sampleGroup("group", 10)
	f.apply(&storage.Change{Group: &later})
	later.Version = 1
	dropped := sampleGroup("group", 11)
	dropped.State = migration.GroupDropped
	f.apply(&storage.Change{Group: &dropped})
	got, err = f.Group(ctx, first.ID)
	expect(t, "highest term", got, err, &later)
	got, err = f.GroupAt(ctx, key("group", 1))
	expect(t, "first term", got, err, &next)
	for _, term := range []uint64{0, 2, math.MaxUint64} {
		_, err = f.GroupAt(ctx, key("group", term))
		absent(t, fmt.Sprint("term ", term), err)
	}
}

func testGroups(t *testing.T, f *fixture) {
	ctx := t.Context()
	for _, id := range []string{"b", "\xff", "a", "\x00", "ab"} {
		for term := range uint64(2) {
			g := sampleGroup(id, term)
			f.apply(&storage.Change{Group: &g})
		}
	}
	dropped := sampleGroup("a", 2)
	dropped.State = migration.GroupDropped
	f.apply(&storage.Change{Group: &dropped})
	dropped.ID = []byte("never")
	f.apply(&storage.Change{Group: &dropped})
	var after []byte
	var got []string
	for {
		page, err := f.Groups(ctx, storage.GroupFilter{}, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, g := range page {
			got = append(got, fmt.Sprintf("%s %d", g.ID, g.Term))
			after = g.ID
		}
	}
	expect(t, "groups by id", got, nil, []string{"\x00 1", "a 1", "ab 1", "b 1", "\xff 1"})
}

func testSnapshot(t *testing.T, f *fixture) {
	ctx := t.Context()
	five, nine, elsewhere := sampleSnapshot("group", 1, 5), sampleSnapshot("group", 1, 9), sampleSnapshot("group", 2, 1)
	complete(t, five)
	f.apply(&storage.Change{Snapshots: []storage.Snapshot{nine, five, elsewhere}})

	again := five
	again.GroupInfo = bytesOf("another")
	f.apply(&storage.Change{Snapshots: []storage.Snapshot{again}}) // the stored one stays

	for epoch, want := range map[uint64]*storage.Snapshot{5: &five, 8: &five, 9: &nine, math.MaxUint64: &nine} {
		got, err := f.Snapshot(ctx, key("group", 1), epoch)
		expect(t, fmt.Sprint("at ", epoch), got, err, want)
	}
	for _, k := range []storage.GroupKey{key("group", 1), key("group", 0), key("grou", 2), key("groupe", 1),
		key("group", math.MaxUint64)} {
		_, err := f.Snapshot(ctx, k, 4)
		absent(t, fmt.Sprint(k), err)
	}
}

func testEntries(t *testing.T, f *fixture) {
	ctx := t.Context()
	var log []storage.Entry
	for seq := range uint64(5) {
		log = append(log, sampleEntry("group", 1, seq+1))
	}
	log[1] = storage.Entry{GroupID: []byte("group"), Term: 1, Seq: 2, Kind: storage.EntryWelcome} // no other fields
	complete(t, log[0])
	f.apply(&storage.Change{Entries: []storage.Entry{log[3], log[0], log[1]}})
	f.apply(&storage.Change{Entries: []storage.Entry{log[2], log[4], sampleEntry("group", 2, 1),
		sampleEntry("groups", 1, 2)}})

	got, err := f.Entries(ctx, key("group", 1), 0, 100)
	expect(t, "all", got, err, log)
	got, err = f.Entries(ctx, key("group", 1), 2, 2)
	expect(t, "from 2, at most 2", got, err, log[1:3])
	got, err = f.Entries(ctx, key("group", 1), 6, 2)
	expect(t, "beyond the end", got, err, nil)
	got, err = f.Entries(ctx, key("group", 1), math.MaxUint64, 2)
	expect(t, "far beyond the end", got, err, nil)
	got, err = f.Entries(ctx, key("group", math.MaxUint64), 0, 2)
	expect(t, "of a term that cannot be", got, err, nil)
	got, err = f.Entries(ctx, key("group", 1), 0, 0)
	expect(t, "at most none", got, err, nil)

	one, err := f.EntryByHash(ctx, key("group", 1), log[2].Hash)
	expect(t, "by hash", one, err, &log[2])
	_, err = f.EntryByHash(ctx, key("group", 3), log[2].Hash)
	absent(t, "by hash in another term", err)

	sameSeq := sampleEntry("group", 1, 5)
	sameSeq.Hash = [32]byte{1}
	f.refuse(&storage.Change{Entries: []storage.Entry{sameSeq}})
	sameHash := sampleEntry("group", 1, 5)
	sameHash.Seq = 6
	f.refuse(&storage.Change{Entries: []storage.Entry{sameHash}})
	f.refuse(&storage.Change{Entries: []storage.Entry{sampleEntry("group", 1, 7), sampleEntry("group", 1, 7)}})
	got, err = f.Entries(ctx, key("group", 1), 0, 100)
	expect(t, "all, still", got, err, log)
}

func testDrop(t *testing.T, f *fixture) {
	ctx := t.Context()
	for _, k := range []storage.GroupKey{key("group", 1), key("group", 2), key("other", 1)} {
		receipt := sampleReceipt(string(k.ID), k.Term, 1)
		former := sampleFormer(string(k.ID), k.Term, "former")
		f.apply(&storage.Change{
			Entries:   []storage.Entry{sampleEntry(string(k.ID), k.Term, 1), sampleEntry(string(k.ID), k.Term, 2)},
			Snapshots: []storage.Snapshot{sampleSnapshot(string(k.ID), k.Term, 1), sampleSnapshot(string(k.ID), k.Term, 2)},
			Receipt:   &receipt,
			Former:    &former,
		})
	}
	kept := sampleEntry("group", 1, 1)
	dropped := key("group", 1)
	f.apply(&storage.Change{Drop: &dropped, Entries: []storage.Entry{kept}})
	got, err := f.Entries(ctx, dropped, 0, 10)
	expect(t, "what came with the drop", got, err, []storage.Entry{kept})
	_, err = f.Snapshot(ctx, dropped, 9)
	absent(t, "snapshots", err)
	_, err = f.EntryByHash(ctx, dropped, sampleEntry("group", 1, 2).Hash)
	absent(t, "by hash", err)
	receipts, err := f.Receipts(ctx, storage.Epoch{GroupKey: dropped}, 10)
	expect(t, "receipts", receipts, err, nil)
	_, err = f.Former(ctx, dropped)
	absent(t, "former terms", err)
	for _, k := range []storage.GroupKey{key("group", 2), key("other", 1)} {
		got, err = f.Entries(ctx, k, 0, 10)
		expect(t, "another term or group", len(got), err, 2)
		_, err = f.Snapshot(ctx, k, 9)
		expect(t, "another's snapshot", 0, err, 0)
		receipts, err = f.Receipts(ctx, storage.Epoch{GroupKey: k}, 10)
		expect(t, "another's receipts", receipts, err, []storage.Receipt{sampleReceipt(string(k.ID), k.Term, 1)})
		former, err := f.Former(ctx, k)
		expect(t, "another's former terms", former.Data, err, bytesOf("former"))
	}
	first, second := sampleFormer("group", 1, "first"), sampleFormer("group", 1, "second")
	for _, former := range []*storage.Former{&first, &second} {
		complete(t, *former)
		f.apply(&storage.Change{Former: former})
		got, err := f.Former(ctx, dropped)
		expect(t, "the last", got, err, former)
	}
}

func testReceipts(t *testing.T, f *fixture) {
	ctx := t.Context()
	complete(t, sampleReceipt("group", 1, 1))
	var all []storage.Receipt
	for _, epoch := range []uint64{1, 2, 4} {
		r := sampleReceipt("group", 1, epoch)
		f.apply(&storage.Change{Receipt: &r})
		all = append(all, r)
	}
	for _, other := range []storage.Receipt{sampleReceipt("group", 2, 3), sampleReceipt("groups", 1, 3)} {
		f.apply(&storage.Change{Receipt: &other})
	}
	another := sampleReceipt("group", 1, 2)
	another.CommitHash = [32]byte(bytesOf("another"))
	f.refuse(&storage.Change{Receipt: &another}) // an epoch has only one
	for _, test := range []struct {
		from  uint64
		limit int
		want  []storage.Receipt
	}{
		{0, 9, all}, {2, 9, all[1:]}, {2, 1, all[1:2]}, {3, 9, all[2:]}, {5, 9, nil}, {math.MaxUint64, 9, nil}, {0, 0, nil},
	} {
		got, err := f.Receipts(ctx, storage.Epoch{GroupKey: key("group", 1), Epoch: test.from}, test.limit)
		expect(t, fmt.Sprint(test.from, test.limit), got, err, test.want)
	}
	if err := f.Forget(ctx, storage.Horizon{Log: epoch.AddDate(1, 0, 0)}); err != nil {
		t.Fatal(err)
	}
	got, err := f.Receipts(ctx, storage.Epoch{GroupKey: key("group", 1)}, 9)
	expect(t, "all, when the log is forgotten", got, err, all)
}

// testLargeChange writes more rows than one statement holds, and large bytes.
func testLargeChange(t *testing.T, f *fixture) {
	const members, size = 3000, 4 << 20
	ctx := t.Context()
	e := sampleEntry("group", 1, 1)
	e.Message = bytes.Repeat(bytesOf("message"), size/32)
	e.Hash = sha256.Sum256(e.Message)
	c := &storage.Change{Entries: []storage.Entry{e}, Content: &storage.Content{ID: migrationID(1), Data: e.Message}}
	for i := range uint64(members) {
		c.Rows = append(c.Rows, sampleRow(fmt.Sprintf("%04d.example", i), "queue", 1))
		c.Entries = append(c.Entries, storage.Entry{
			GroupID: []byte("group"), Term: 1, Seq: i + 2, Hash: [32]byte(bytesOf(fmt.Sprint(i))),
			Recipients: []mimiport.LeafIdentity{{UserID: "@u:a.example", DeviceID: fmt.Sprint(i)}},
		})
	}
	f.apply(c)
	got, err := f.Entries(ctx, key("group", 1), 1, 1)
	expect(t, "large entry", got, err, c.Entries[:1])
	got, err = f.Entries(ctx, key("group", 1), members+1, 1)
	expect(t, "last entry", got, err, c.Entries[members:])
	content, err := f.Content(ctx, migrationID(1))
	expect(t, "large content", bytes.Equal(content, e.Message), err, true)
	rows, next, err := f.Due(ctx, epoch, members)
	expect(t, "rows", rows, err, c.Rows)
	expect(t, "next", next.IsZero(), err, true)
}
