package storagetest

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

func testMigration(t *testing.T, f *fixture) {
	ctx := t.Context()
	m := sampleMigration(1)
	_, err := f.Migration(ctx, m.ID)
	absent(t, "no migration", err)

	f.apply(&storage.Change{Migration: &m})
	f.refuse(&storage.Change{Migration: &m}) // the row exists
	m.Version = 1
	complete(t, m)
	got, err := f.Migration(ctx, m.ID)
	expect(t, "inserted", got, err, &m)

	next := migration.Migration{ID: m.ID, Version: 1, State: migration.Aborted, Role: migration.Target,
		CreatedAt: m.CreatedAt}
	f.apply(&storage.Change{Migration: &next})
	f.refuse(&storage.Change{Migration: &next}) // the row has a later version
	next.Version = 2
	got, err = f.Migration(ctx, m.ID)
	expect(t, "replaced", got, err, &next)

	next.Reason = "b.example said: \x00\xff"
	f.apply(&storage.Change{Migration: &next})
	next.Version, next.Reason = 3, "b.example said: \uFFFD\uFFFD"
	got, err = f.Migration(ctx, m.ID)
	expect(t, "with what cannot be text", got, err, &next)

	other := sampleMigration(2)
	other.Version = 1
	f.refuse(&storage.Change{Migration: &other}) // there is no row
}

func testMigrations(t *testing.T, f *fixture) {
	ctx := t.Context()
	for n := range uint64(4) {
		m := sampleMigration(n + 1)
		if n%2 == 1 {
			m.GroupID, m.Role, m.State, m.User = []byte("other"), migration.Target, migration.Offered, "@other:b.example"
		}
		switch n {
		case 1:
			m.RoomID = "!other:a.example"
		case 2:
			m.State, m.Source = migration.Decided, "c.example"
		}
		f.apply(&storage.Change{Migration: &m})
	}
	for _, test := range []struct {
		name   string
		filter storage.MigrationFilter
		after  uint64
		limit  int
		want   []uint64
	}{
		{"all", storage.MigrationFilter{}, 0, 10, []uint64{1, 2, 3, 4}},
		{"after, at most", storage.MigrationFilter{}, 1, 2, []uint64{2, 3}},
		{"after the last", storage.MigrationFilter{}, 4, 10, nil},
		{"at most none", storage.MigrationFilter{}, 0, 0, nil},
		{"group", storage.MigrationFilter{GroupID: []byte("other")}, 0, 10, []uint64{2, 4}},
		{"role", storage.MigrationFilter{Role: migration.Source}, 0, 10, []uint64{1, 3}},
		{"state", storage.MigrationFilter{States: []migration.State{migration.Decided}}, 0, 10, []uint64{3}},
		{"states", storage.MigrationFilter{States: []migration.State{migration.Offered, migration.Frozen}}, 0, 10,
			[]uint64{1, 2, 4}},
		{"user", storage.MigrationFilter{User: "@user:a.example"}, 0, 10, []uint64{1, 3}},
		{"room", storage.MigrationFilter{RoomID: "!other:a.example"}, 0, 10, []uint64{2}},
		{"source", storage.MigrationFilter{Source: "c.example"}, 0, 10, []uint64{3}},
		{"until", storage.MigrationFilter{Until: epoch.Add(2 * time.Second)}, 0, 10, []uint64{1, 2}},
		{"since", storage.MigrationFilter{Since: epoch.Add(3 * time.Second)}, 0, 10, []uint64{3, 4}},
		{"all of these", storage.MigrationFilter{GroupID: []byte("other"), Role: migration.Target,
			States: []migration.State{migration.Offered}, User: "@other:b.example", Since: epoch}, 2, 10, []uint64{4}},
	} {
		found, err := f.Migrations(ctx, test.filter, migrationID(test.after), test.limit)
		var got []mimiport.MigrationID
		for i := range found {
			got = append(got, found[i].ID)
		}
		var want []mimiport.MigrationID
		for _, n := range test.want {
			want = append(want, migrationID(n))
		}
		expect(t, test.name, got, err, want)
	}
}

func testCommitAborted(t *testing.T, f *fixture) {
	ctx := t.Context()
	for n, change := range []func(*migration.Migration){
		func(m *migration.Migration) { m.CommitHash = bytesOf("frozen") },
		func(m *migration.Migration) { m.CommitHash, m.State = bytesOf("aborted"), migration.Aborted },
		func(m *migration.Migration) { m.CommitHash, m.State = bytesOf("moved"), migration.Moved },
		func(m *migration.Migration) {
			m.CommitHash, m.State, m.Role = bytesOf("at the target"), migration.Aborted, migration.Target
		},
	} {
		m := sampleMigration(uint64(n))
		change(&m)
		f.apply(&storage.Change{Migration: &m})
	}
	for _, name := range []string{"frozen", "aborted", "moved", "at the target", "unknown"} {
		got, err := f.CommitAborted(ctx, []byte("group"), bytesOf(name))
		expect(t, name, got, err, name == "aborted")
	}
	got, err := f.CommitAborted(ctx, []byte("other"), bytesOf("aborted"))
	expect(t, "another group", got, err, false)
}

func testContent(t *testing.T, f *fixture) {
	ctx := t.Context()
	_, err := f.Content(ctx, migrationID(1))
	absent(t, "no content", err)
	c := &storage.Change{Content: &storage.Content{ID: migrationID(1), Data: []byte("a\x00b\xff")}}
	f.apply(c)
	f.refuse(c)
	got, err := f.Content(ctx, migrationID(1))
	expect(t, "content", got, err, c.Content.Data)
	id := migrationID(1)
	f.apply(&storage.Change{DropContent: &id})
	_, err = f.Content(ctx, id)
	absent(t, "dropped content", err)
	f.apply(&storage.Change{DropContent: &id, Content: c.Content}) // it drops nothing, then inserts
}

func testEvidence(t *testing.T, f *fixture) {
	ctx := t.Context()
	none, err := f.Evidence(ctx, []byte("group"))
	expect(t, "no evidence", none, err, nil)
	later, first, another := sampleEvidence("group", 1), sampleEvidence("group", 1), sampleEvidence("group", 1)
	first.Kind = migration.EvidenceBothOutcomes
	later.At, another.At = epoch.Add(time.Hour), epoch.Add(2*time.Hour)
	complete(t, later)
	f.apply(&storage.Change{Evidence: []storage.Evidence{later, first}})
	f.apply(&storage.Change{Evidence: []storage.Evidence{another, sampleEvidence("other", 1)}})
	got, err := f.Evidence(ctx, []byte("group"))
	expect(t, "evidence, the first of each kind", got, err, []storage.Evidence{first, later})

	other := sampleEvidence("other", 1)
	all := []storage.Evidence{first, later, other}
	for i := range all {
		after := storage.EvidenceKey{}
		if i > 0 {
			after = all[i-1].Key()
		}
		got, err = f.AllEvidence(ctx, storage.EvidenceFilter{}, after, 1)
		expect(t, "one piece on each page", got, err, all[i:i+1])
	}
	got, err = f.AllEvidence(ctx, storage.EvidenceFilter{}, other.Key(), 9)
	expect(t, "after the last", got, err, nil)
	got, err = f.AllEvidence(ctx, storage.EvidenceFilter{GroupID: []byte("group")}, first.Key(), 9)
	expect(t, "the rest of a group", got, err, []storage.Evidence{later})
	kinds := storage.EvidenceFilter{Kinds: []storage.EvidenceKind{migration.EvidenceHigherTerm}}
	got, err = f.AllEvidence(ctx, kinds, storage.EvidenceKey{}, 9)
	expect(t, "one kind", got, err, []storage.Evidence{later, other})
}

func testSettings(t *testing.T, f *fixture) {
	ctx := t.Context()
	_, err := f.Setting(ctx, "policy")
	absent(t, "no setting", err)
	for _, value := range []string{`{"a": 1}`, ` {"b":"\u0000"}`} {
		if err := f.PutSetting(ctx, "policy", json.RawMessage(value)); err != nil {
			t.Fatal(err)
		}
		got, err := f.Setting(ctx, "policy")
		expect(t, "setting", string(got), err, value)
	}
	for _, name := range []string{"policy", "key"} {
		got, err := f.AddSetting(ctx, name, json.RawMessage(`"added"`))
		expect(t, "added setting", string(got), err, map[string]string{"policy": ` {"b":"\u0000"}`, "key": `"added"`}[name])
	}
}
