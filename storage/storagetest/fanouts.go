package storagetest

import (
	"fmt"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// testRows: Rows returns the rows of one queue from a row on, due or not, and a change deletes many of them at once.
func testRows(t *testing.T, f *fixture) {
	var rows []storage.Row
	for order := range uint64(5) {
		rows = append(rows, due("b.example", "q", order, int(order)*3600))
	}
	other, later := due("b.example", "r", 1, 0), due("c.example", "q", 2, 0)
	f.apply(&storage.Change{Rows: append([]storage.Row{other, later}, rows...)})
	for _, test := range []struct {
		from  uint64
		limit int
		want  []storage.Row
	}{{0, 9, rows}, {0, 2, rows[:2]}, {2, 9, rows[2:]}, {5, 9, nil}} {
		got, err := f.Rows(t.Context(), storage.RowKey{Destination: "b.example", Queue: "q", Order: test.from}, test.limit)
		expect(t, fmt.Sprint(test.from, test.limit), got, err, test.want)
	}
	f.apply(&storage.Change{Done: []storage.RowKey{rows[1].Key(), other.Key(), rows[0].Key(), rows[3].Key()}})
	got, err := f.Rows(t.Context(), rows[0].Key(), 9)
	expect(t, "after some are done", got, err, []storage.Row{rows[2], rows[4]})
	f.expectDue(2*3600, 9, -1, later, rows[2])
}

// testFanOuts: a store returns the FanOuts of each group in order until they are settled, and the servers with rows.
func testFanOuts(t *testing.T, f *fixture) {
	var waiting []storage.FanOut
	for seq := uint64(2); seq < 7; seq++ {
		waiting = append(waiting, complete(t, sampleFanOut("group", 1, seq)))
	}
	again, other := sampleFanOut("group", 2, 1), sampleFanOut("other", 1, 9)
	f.apply(&storage.Change{FanOuts: append([]storage.FanOut{other, again}, waiting...)})
	f.refuse(&storage.Change{FanOuts: []storage.FanOut{sampleFanOut("group", 1, 2)}})
	position := func(id string, term, seq uint64) storage.Position {
		return storage.Position{GroupKey: key(id, term), Seq: seq}
	}
	expectWaiting := func(want ...storage.Position) {
		t.Helper()
		got, err := f.Waiting(t.Context())
		expect(t, "waiting", got, err, want)
	}
	expectWaiting(position("group", 1, 6), position("group", 2, 1), position("other", 1, 9))
	for _, test := range []struct {
		from  uint64
		limit int
		want  []storage.FanOut
	}{{0, 9, waiting}, {0, 2, waiting[:2]}, {4, 9, waiting[2:]}, {7, 9, nil}} {
		got, err := f.FanOuts(t.Context(), position("group", 1, test.from), test.limit)
		expect(t, fmt.Sprint(test.from, test.limit), got, err, test.want)
	}

	behind := waiting[2].Row("b.example")
	if want := storage.FanOutQueue(key("group", 1)); behind.Queue != want || behind.Order != 4 {
		t.Fatalf("the row is number %d of %s", behind.Order, behind.Queue)
	}
	f.apply(&storage.Change{
		Settled: []storage.Position{position("group", 1, 4), position("other", 1, 9), position("none", 1, 9)},
		Rows:    []storage.Row{behind, waiting[1].Row("b.example"), waiting[2].Row("a.example"), again.Row("c.example")},
	})
	expectWaiting(position("group", 1, 6), position("group", 2, 1))
	got, err := f.FanOuts(t.Context(), position("group", 1, 0), 9)
	expect(t, "after some are settled", got, err, waiting[3:])
	servers, err := f.Behind(t.Context(), key("group", 1))
	expect(t, "behind", servers, err, []string{"a.example", "b.example"})
	f.apply(&storage.Change{Settled: []storage.Position{position("group", 1, 9)}, FanOuts: waiting[:1]})
	expectWaiting(position("group", 1, 2), position("group", 2, 1))
}
