package storagetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// due returns a sampleRow that is due that many seconds after epoch.
func due(destination, queue string, order uint64, seconds int) storage.Row {
	r := sampleRow(destination, queue, order)
	r.Due = epoch.Add(time.Duration(seconds) * time.Second)
	return r
}

// expectDue compares the due rows that many seconds after epoch, and the time of the next; -1 is never.
func (f *fixture) expectDue(seconds, limit int, next int, want ...storage.Row) {
	f.t.Helper()
	rows, at, err := f.Due(f.t.Context(), epoch.Add(time.Duration(seconds)*time.Second), limit)
	expect(f.t, fmt.Sprintf("due after %d s", seconds), rows, err, want)
	var wantNext time.Time
	if next >= 0 {
		wantNext = epoch.Add(time.Duration(next) * time.Second)
	}
	expect(f.t, fmt.Sprintf("next after %d s", seconds), at, nil, wantNext)
}

func testDue(t *testing.T, f *fixture) {
	f.expectDue(100, 10, -1)
	complete(t, due("b.example", "q", 5, 3))
	last, head, other := due("b.example", "q", 9, 1), due("b.example", "q", 5, 3), due("b.example", "r", 7, 4)
	f.apply(&storage.Change{Rows: []storage.Row{last, head, other}})
	f.refuse(&storage.Change{Rows: []storage.Row{due("b.example", "q", 5, 0)}})
	f.refuse(&storage.Change{Rows: []storage.Row{due("b.example", "s", 1, 0), due("b.example", "s", 1, 0)}})

	f.expectDue(2, 10, 3) // the last row of the queue is due, the first is not
	f.expectDue(3, 10, 4, head)
	f.expectDue(4, 10, -1, head, other)
	f.expectDue(3, 1, 4, head)
	f.expectDue(4, 1, -1, head) // the other row is due now too

	first := due("b.example", "q", 2, 8)
	f.apply(&storage.Change{Rows: []storage.Row{first}}) // now comes before the former head
	f.expectDue(5, 10, 8, other)
	f.apply(&storage.Change{Done: []storage.RowKey{first.Key(), first.Key(),
		{Destination: "b.example", Queue: "none", Order: 1}}})
	f.expectDue(5, 10, -1, head, other)
	f.apply(&storage.Change{Done: []storage.RowKey{last.Key()}}) // the row is not the head
	f.expectDue(5, 10, -1, head, other)
	f.apply(&storage.Change{Done: []storage.RowKey{head.Key(), other.Key()}})
	f.expectDue(5, 10, -1)

	again := due("b.example", "q", 5, 6)
	f.apply(&storage.Change{Rows: []storage.Row{again}})
	later := due("b.example", "q", 5, 7)
	f.apply(&storage.Change{Done: []storage.RowKey{again.Key()}, Rows: []storage.Row{later}}) // replaces the old row
	f.expectDue(6, 10, 7)
	f.expectDue(7, 10, -1, later)
}

// testDueTurns: a destination with many rows hides no other destination.
func testDueTurns(t *testing.T, f *fixture) {
	var busy []storage.Row
	for i := range 20 {
		busy = append(busy, due("busy.example", fmt.Sprintf("q%02d", i), 1, i/10))
	}
	quiet, slow := due("quiet.example", "q", 1, 2), due("slow.example", "q", 1, 9)
	f.apply(&storage.Change{Rows: append([]storage.Row{quiet, slow}, busy...)})
	f.expectDue(3, 3, 9, busy[0], quiet, busy[1])
	f.expectDue(3, 100, 9, append([]storage.Row{busy[0], quiet}, busy[1:]...)...)
}

// testDueLanes: no lane hides another lane.
func testDueLanes(t *testing.T, f *fixture) {
	var rows []storage.Row
	for i := range 6 {
		rows = append(rows, due(fmt.Sprintf("%d.example", i), "q", 1, i))
	}
	again := due("1.example", "r", 1, 0)
	f.apply(&storage.Change{Rows: append([]storage.Row{again}, rows...)})
	for _, test := range []struct {
		lanes [][]string
		want  []storage.Row
	}{
		{nil, []storage.Row{rows[0], again}},
		{[][]string{{}, nil}, []storage.Row{rows[0], again}},
		{
			[][]string{{"5.example", "4.example", "none.example", "3.example"}},
			[]storage.Row{rows[0], again, rows[3], rows[4]},
		},
		{[][]string{{"5.example"}, {"1.example"}}, []storage.Row{rows[0], again, rows[2], rows[5], rows[1]}},
	} {
		got, _, err := f.Due(t.Context(), epoch.Add(time.Minute), 2, test.lanes...)
		expect(t, fmt.Sprintf("lanes %v", test.lanes), got, err, test.want)
	}
}

func testRetry(t *testing.T, f *fixture) {
	ctx := t.Context()
	head, behind := due("b.example", "q", 1, 0), due("b.example", "q", 2, 0)
	f.apply(&storage.Change{Rows: []storage.Row{head, behind}})
	put := func(row *storage.Row, attempts, seconds int) {
		row.Attempts, row.Due = attempts, epoch.Add(time.Duration(seconds)*time.Second)
		if err := f.Retry(ctx, row.Key(), row.Attempts, row.Due); err != nil {
			t.Fatal(err)
		}
	}
	put(&head, 5, 10)
	f.expectDue(9, 10, 10) // no row passes the head
	f.expectDue(10, 10, -1, head)
	put(&behind, 6, 20)
	f.expectDue(10, 10, -1, head)
	f.apply(&storage.Change{Done: []storage.RowKey{head.Key()}})
	f.expectDue(10, 10, 20)
	f.expectDue(20, 10, -1, behind)
	put(&head, 7, 30) // the head is done already
	f.expectDue(20, 10, -1, behind)
}

// testHasten: afterwards only rows that wait for the end of a retention are due later than MaxWait from now.
func testHasten(t *testing.T, f *fixture) {
	const far = 3600
	most := int(storage.MaxWait.Seconds())
	head, behind := due("b.example", "ahead", 1, far), due("b.example", "ahead", 2, far)
	soon, later := due("b.example", "soon", 1, 5), due("b.example", "soon", 2, far)
	allowed, purge := due("b.example", "allowed", 1, most), due("b.example", "purge", 1, far)
	end := due("b.example", "end", 1, far)
	purge.Kind, end.Kind = migration.RowPurge, migration.RowEnd
	f.apply(&storage.Change{Rows: []storage.Row{head, behind, soon, later, allowed, purge, end}})
	for range 2 {
		if err := f.Hasten(t.Context(), epoch); err != nil {
			t.Fatal(err)
		}
		head.Due, behind.Due, later.Due = epoch, epoch, epoch
		f.expectDue(0, 10, 5, head)
	}
	f.apply(&storage.Change{Done: []storage.RowKey{head.Key(), soon.Key()}})
	f.expectDue(0, 10, most, behind, later)
	f.apply(&storage.Change{Done: []storage.RowKey{behind.Key(), later.Key()}})
	f.expectDue(most, 10, far, allowed)
	f.expectDue(far, 10, -1, allowed, end, purge)
}
