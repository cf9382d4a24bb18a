package integration

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	_ "github.com/mattn/go-sqlite3"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// drained is a server that empties itself, with the groups that bob is asked to move.
type drained struct {
	*movers
	tool   *tool
	groups map[string]*moving // by id
	since  string             // of bob's next sync

	moves sync.WaitGroup
	slots chan struct{}
	mu    sync.Mutex
	moved map[string]bool
}

// TestDrain: a server of many groups empties itself. It asks bob to move each group, dies in the middle, and goes on.
// A group of a room without bob is stuck, until bob is back. What the API says is what SQL counts, before, in the
// middle and after. A browser opens the operator's page at the real server, which shows the same. With MIMI_SOAK=1
// there are 1,000 groups, which take less than two minutes.
func TestDrain(t *testing.T) {
	own, together := 2, 16
	if os.Getenv("MIMI_SOAK") != "" {
		own, together = 100, 900
	}
	m := newMovers(t)
	d := &drained{movers: m, tool: newTool(t, m.a), groups: map[string]*moving{}, moved: map[string]bool{},
		slots: make(chan struct{}, 8)}
	shared, without := harness.SharedRoom(t, m.alice, m.bob), harness.SharedRoom(t, m.alice, m.bob)
	for range together {
		d.add(t, shared)
	}
	for range own {
		d.add(t, harness.SharedRoom(t, m.alice, m.bob))
	}
	all := own + together
	one, _ := d.add(t, without).importOnce(t)
	if err := m.bob.Leave(harness.Within(t), without); err != nil {
		t.Fatal(err)
	}
	d.requireCounts(t, all+1, 0)

	begin := time.Now()
	d.tool.run(t, "drain", "start", "-to", m.b.Name, "-rate", fmt.Sprintf("%d/m", api.MaxDrainRate))
	d.moveUntil(t, all/2)
	d.requireCounts(t, all+1-d.count(), d.count())
	restart(t, m.a)
	d.moveUntil(t, all)
	took := time.Since(begin)
	t.Logf("%d groups took %v, %.1f a second; to verify each once takes %v", all, took.Round(time.Millisecond),
		float64(all)/took.Seconds(), (one * time.Duration(all)).Round(time.Millisecond))
	if took > 2*time.Minute {
		t.Errorf("the drain took %v", took)
	}
	d.requireCounts(t, 1, all)
	d.awaitStuck(t, 1)
	d.requirePage(t, 1, all)

	harness.Admit(t, m.alice, without, m.bob)
	d.tool.run(t, "drain", "start", "-to", m.b.Name)
	d.moveUntil(t, all+1)
	d.requireCounts(t, 0, all+1)
	if report := d.tool.run(t, "drain", "status", "-follow"); !strings.Contains(report,
		fmt.Sprintf("moved to %s: %d groups\n", m.b.Name, all+1)) {
		t.Errorf("the report: %s", report)
	}
}

// add binds one more group in a room.
func (d *drained) add(t *testing.T, room string) *moving {
	t.Helper()
	g := d.newGroup(t, room, 2)
	d.groups[mimiport.IDText(g.mls.ID())] = g
	return g
}

// count returns how many groups bob has moved.
func (d *drained) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.moved)
}

// moveUntil lets bob move what he is asked to move, until he has moved at least n groups. Then no move is under way.
func (d *drained) moveUntil(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	next, err := d.bob.Await(ctx, d.since, func(s *harness.Sync) bool {
		for _, e := range s.ToDevice.Events {
			if e.Type == api.EventMoveRequest {
				d.answer(t, e.Content)
			}
		}
		return d.count() >= n
	})
	d.moves.Wait()
	if d.since = next; err != nil {
		t.Fatalf("bob has moved %d of %d groups: %v", d.count(), n, err)
	}
}

// answer lets bob move the group that an event names, if it is still at its host.
func (d *drained) answer(t *testing.T, content json.RawMessage) {
	t.Helper()
	var signed api.SignedInfo
	if err := json.Unmarshal(content, &signed); err != nil {
		t.Fatal(err)
	}
	asked, err := mimiport.UnmarshalMoveRequest(signed.Message)
	if err != nil {
		t.Fatal(err)
	}
	id := mimiport.IDText(asked.GroupID)
	g := d.groups[id]
	if g == nil || asked.UserID != d.bob.ID || !slices.Equal(asked.Targets, []string{d.b.Name}) {
		t.Fatalf("bob got %+v", asked)
	}
	if g.prepared != nil {
		return // asked before
	}
	g.prepare(t)
	d.slots <- struct{}{}
	d.moves.Go(func() {
		defer func() { <-d.slots }()
		if err := g.move(t.Context()); err != nil {
			t.Error(err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.moved[id] = true
	})
}

// requireCounts fails the test unless SQL counts so many groups that are here and that have moved, and the API says the
// same: the list, the status and, while there is a drain, the drain.
func (d *drained) requireCounts(t *testing.T, here, moved int) {
	t.Helper()
	rows := statesIn(t, d.a)
	if rows[migration.GroupActive] != here || rows[migration.GroupMoved] != moved || len(rows) > 2 {
		t.Errorf("SQL counts %v, want %d active and %d moved", rows, here, moved)
	}
	var status api.Status
	d.get(t, "/status", &status)
	for state, n := range status.Groups {
		if n != rows[migration.GroupState(state)] {
			t.Errorf("the status has %d groups in the state %s, SQL counts %v", n, state, rows)
		}
	}
	for state, n := range map[migration.GroupState]int{migration.GroupActive: here, migration.GroupMoved: moved} {
		var page struct {
			Total int `json:"total"`
		}
		if d.get(t, "/groups?limit=1&state="+url.QueryEscape(string(state)), &page); page.Total != n {
			t.Errorf("the list has %d groups in the state %s, want %d", page.Total, state, n)
		}
	}
	var drain api.Drain
	if d.get(t, "/drain", &drain); drain.State == api.DrainNone {
		return
	}
	if drain.Left != here || drain.Groups[api.DrainMoved] != moved || drain.Total != here+moved {
		t.Errorf("the drain is %+v, want %d left and %d moved", drain, here, moved)
	}
}

// awaitStuck waits until nobody can move so many groups, and checks that the report says why.
func (d *drained) awaitStuck(t *testing.T, n int) {
	t.Helper()
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
		var page struct {
			Items []api.DrainGroup `json:"items"`
		}
		const path = "/_dendrite/admin/mimiport/drain/groups?state=stuck"
		if err := d.tool.admin.Do(ctx, http.MethodGet, path, nil, &page); err != nil {
			return err
		}
		if len(page.Items) != n {
			return fmt.Errorf("%d groups are stuck", len(page.Items))
		}
		for _, g := range page.Items {
			if len(g.Why) == 0 || g.Why[0].Remedy == "" {
				return errors.New("a group is stuck without a reason")
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// requirePage checks that the operator's page in a browser shows so many groups of the drain as stuck and as moved, and
// a reason for each that is stuck.
func (d *drained) requirePage(t *testing.T, stuck, moved int) {
	t.Helper()
	shown := harness.Look(t, d.a.URL, d.tool.admin.Token)
	want := map[string]int{"waiting": 0, "asked": 0, "moving": 0, "stuck": stuck, "moved": moved, "gone": 0}
	if diff := cmp.Diff(want, shown.Drain); diff != "" {
		t.Errorf("the page: %s", diff)
	}
	if shown.Groups["active"] != stuck || shown.Totals["moved"] != moved || shown.Stuck != stuck ||
		len(shown.WithoutReason) > 0 {
		t.Errorf("the page shows %+v", shown)
	}
}

func (d *drained) get(t *testing.T, path string, answer any) {
	t.Helper()
	err := d.tool.admin.Do(harness.Within(t), http.MethodGet, "/_dendrite/admin/mimiport"+path, nil, answer)
	if err != nil {
		t.Fatal(err)
	}
}

// statesIn counts the groups in a server's SQLite file by state.
func statesIn(t *testing.T, s *harness.Server) map[migration.GroupState]int {
	t.Helper()
	db, err := sql.Open("sqlite3", s.Store()+"?mode=ro&_busy_timeout=10000")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), "SELECT state, count(*) FROM mimiport_groups GROUP BY state")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	counts := make(map[migration.GroupState]int)
	for rows.Next() {
		var state migration.GroupState
		var n int
		if err := rows.Scan(&state, &n); err != nil {
			t.Fatal(err)
		}
		counts[state] = n
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return counts
}
