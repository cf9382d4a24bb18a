package engine_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

// Both engines list the whole outbox page by page, and report a message without a group.
func TestInspect(t *testing.T) {
	for name, connection := range map[string]string{
		"SQLite": "file:" + filepath.Join(t.TempDir(), "mimi.db"), "PostgreSQL": pgtest.Start(t).Database(t),
	} {
		t.Run(name, func(t *testing.T) {
			store := open(t, connection)
			keys := []storage.RowKey{{Destination: "a", Queue: "p", Order: 1}, {Destination: "a", Queue: "p", Order: 2},
				{Destination: "b", Queue: "a", Order: 1}}
			change := &storage.Change{Entries: []storage.Entry{{GroupID: []byte("none"), Seq: 1, Kind: storage.EntryCommit}}}
			for _, k := range keys {
				change.Rows = append(change.Rows, storage.Row{Destination: k.Destination, Queue: k.Queue, Order: k.Order,
					Due: time.Unix(1, 0)})
			}
			if err := store.Apply(t.Context(), change); err != nil {
				t.Fatal(err)
			}
			var after storage.RowKey
			for _, want := range keys {
				rows, err := store.Outbox(t.Context(), after, 1)
				if err != nil || len(rows) != 1 || rows[0].Key() != want {
					t.Fatalf("after %v comes %v (%v), want %v", after, rows, err, want)
				}
				after = want
			}
			problems, err := store.Loose(t.Context())
			if err != nil || len(problems) != 1 || problems[0] != "1 messages are of no group" {
				t.Errorf("%q (%v)", problems, err)
			}
		})
	}
}
