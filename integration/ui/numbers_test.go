package ui

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

func TestMain(m *testing.M) { os.Exit(harness.Run(m)) }

// numbers is a server A of 300 groups with its database, and what operators see of it.
type numbers struct {
	*deliverytest.World
	t    *testing.T
	db   *sql.DB
	url  string
	tool string // mimictl
	page bool   // whether to look at the page
}

// TestNumbers: before, during and after a drain of 300 groups, the admin API, mimictl and the page show exactly the
// groups that SQL counts. Every group that nobody can move has its reasons, with remedies. The page knows nothing but
// the API, so one database is enough for it.
func TestNumbers(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		file := "file:" + filepath.Join(t.TempDir(), "mimi.db")
		store, err := sqlite.Open(t.Context(), file)
		testNumbers(t, store, err, "sqlite3", file+"?_busy_timeout=10000", true)
	})
	t.Run("postgres", func(t *testing.T) {
		connection := pgtest.Start(t).Database(t)
		store, err := postgres.Open(t.Context(), connection, postgres.Pool{MaxOpen: 10, MaxIdle: 10})
		testNumbers(t, store, err, "postgres", connection, false)
	})
}

func testNumbers(t *testing.T, store storage.Store, err error, driver, connection string, page bool) {
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	n := newNumbers(t, store, must(sql.Open(driver, connection))(t))
	n.page = page
	n.requirePage("before", n.require("before", 300, 0))
	n.mimictl(3, "drain", "start", "-to", "b.example,c.example", "-dry-run")
	n.mimictl(0, "drain", "start", "-to", "b.example,c.example", "-rate", "6000/m")
	n.pass(3 * time.Second)
	n.require("while members are asked", 300, 0)
	n.answer(100)
	n.end(10)
	n.requirePage("in the middle", n.require("in the middle", 190, 100))
	for range 3 {
		n.pass(5 * time.Second)
		n.answer(300)
	}
	n.pass(3 * time.Minute)
	n.requirePage("afterwards", n.require("afterwards", 70, 220))
	report := n.mimictl(3, "drain", "report")
	for _, want := range []string{
		"moved to b.example: 220 groups\n", "closed, or gone in another way: 10 groups\n", "still here: 70 groups\n",
	} {
		if !strings.Contains(report, want) {
			t.Errorf("the report lacks %q:\n%s", want, report)
		}
	}
}

func newNumbers(t *testing.T, store storage.Store, db *sql.DB) *numbers {
	t.Helper()
	t.Cleanup(func() { db.Close() })
	n := &numbers{t: t, db: db, tool: must(harness.Tool())(t), World: deliverytest.New(1, map[string]storage.Store{
		serverA: store, serverB: memory.New(), serverC: memory.New(),
	})}
	n.Lose = func(m deliverytest.Message) bool {
		return m.To == serverC && (m.What == "content" || m.What == "intake")
	}
	n.fill()
	server := httptest.NewServer(routes(n.World))
	t.Cleanup(server.Close)
	n.url = server.URL
	return n
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// silent is a member who follows no request.
const silent = "@silent:b.example"

// fill makes 300 groups that are here, and others that are not. Of the 300, 230 have a member who moves them when
// asked, and 10 one who does not. 30 have no user of a target, 10 are stopped, 10 cannot be read, and 10 are frozen.
func (n *numbers) fill() {
	n.t.Helper()
	for i := range 225 {
		n.group(alice, fmt.Sprintf("@bob%d:b.example", i%20))
	}
	for range 5 {
		n.returned()
		must(n.Service(serverA).ReserveGroup(n.t.Context(), deliverytest.Caller(alice),
			&api.ReserveGroupRequest{RoomID: deliverytest.RoomID}))(n.t)
		n.close(n.group(alice, bob))
		move(n.t, n.World, bob)
	}
	for range 10 {
		n.group(alice, silent)
		for range 3 {
			n.group(alice, carol)
		}
		stopped := must(n.Stores[serverA].Group(n.t.Context(), n.group(alice, bob)))(n.t)
		stopped.State = migration.GroupStopped
		if err := n.Stores[serverA].Apply(n.t.Context(), &storage.Change{Group: stopped}); err != nil {
			n.t.Fatal(err)
		}
		must(n.db.Exec("DELETE FROM mimiport_snapshots WHERE group_id = $1", n.group(alice, bob)))(n.t)
		move(n.t, n.World, cleo)
	}
	n.Restart(serverA) // it has read the groups that nobody can read now
	n.pass(0)
}

func (n *numbers) group(users ...string) (id []byte) {
	n.t.Helper()
	g, _, err := deliverytest.NewGroup(n.t.Context(), n.World, serverA, users...)
	if err != nil {
		n.t.Fatal(err)
	}
	return g.ID
}

// returned makes a group that has been at B: A has two terms of it.
func (n *numbers) returned() {
	n.t.Helper()
	id := n.group(alice, bob)
	for _, to := range []struct{ user, server string }{{bob, serverB}, {alice, serverA}} {
		p := must(n.Member(id, to.user).NewMigration(n.t.Context(), to.server))(n.t)
		must(n.Member(id, to.user).Initiate(n.t.Context(), p))(n.t)
		n.pass(0)
		for _, user := range []string{alice, bob} {
			if err := n.Member(id, user).Sync(n.t.Context()); err != nil {
				n.t.Fatal(err)
			}
		}
	}
}

func (n *numbers) close(id []byte) {
	n.t.Helper()
	must(n.Service(serverA).CloseGroup(n.t.Context(), deliverytest.Caller(alice), id))(n.t)
}

func (n *numbers) pass(d time.Duration) {
	n.t.Helper()
	if err := n.RunFor(n.t.Context(), d); err != nil {
		n.t.Fatal(err)
	}
}

// answer lets members, but for the silent one, follow at most so many requests.
func (n *numbers) answer(most int) {
	n.t.Helper()
	n.Asked = slices.DeleteFunc(n.Asked, func(a deliverytest.Asked) bool { return a.UserID == silent })
	if err := n.Answer(n.t.Context(), min(most, len(n.Asked))); err != nil {
		n.t.Fatal(err)
	}
	n.pass(0)
}

// end closes so many groups that members are asked to move.
func (n *numbers) end(groups int) {
	n.t.Helper()
	for _, a := range n.Asked[:groups] {
		n.close(a.GroupID)
	}
	n.Asked = n.Asked[groups:]
}

// counted is what SQL counts by state: the groups, and those of the drain.
type counted struct{ groups, drain map[string]int }

// require fails the test unless SQL counts so many groups that are here and that the drain has moved, and the API and
// mimictl have the same groups and numbers as SQL.
func (n *numbers) require(when string, here, moved int) counted {
	n.t.Helper()
	groups := make(map[string]string)
	n.query("SELECT group_id, state FROM "+latest, func(id []byte, state string) { groups[mimiport.IDText(id)] = state })
	drain := make(map[string]string)
	n.query(`SELECT d.group_id, CASE WHEN g.state IN ('active', 'stopped') THEN d.state
		WHEN g.state = 'frozen' THEN 'moving' WHEN g.state = 'moved' THEN 'moved' ELSE 'gone' END
		FROM mimiport_drain AS d LEFT JOIN `+latest+
		` ON g.group_id = d.group_id`, func(id []byte, state string) { drain[mimiport.IDText(id)] = state })
	c := counted{countOf(groups), countOf(drain)}
	if left := c.groups["active"] + c.groups["frozen"] + c.groups["stopped"]; left != here || c.drain["moved"] != moved {
		n.t.Errorf("%s: SQL counts %+v", when, c)
	}
	n.requireGroups(when, groups)
	n.requirePlan(when, here)
	if len(drain) > 0 {
		n.requireDrain(when, drain)
	}
	return c
}

// latest selects each group as it is in its highest term that is not dropped.
const latest = `(SELECT group_id, state FROM (
	SELECT group_id, state, row_number() OVER (PARTITION BY group_id ORDER BY term DESC) AS nth
	FROM mimiport_groups WHERE state <> 'dropped') AS terms WHERE nth = 1) AS g`

func (n *numbers) query(text string, each func(id []byte, state string)) {
	n.t.Helper()
	rows := must(n.db.QueryContext(n.t.Context(), text))(n.t)
	defer rows.Close()
	for rows.Next() {
		var id []byte
		var state string
		if err := rows.Scan(&id, &state); err != nil {
			n.t.Fatal(err)
		}
		each(id, state)
	}
	if err := rows.Err(); err != nil {
		n.t.Fatal(err)
	}
}

func countOf(states map[string]string) map[string]int {
	counts := make(map[string]int)
	for _, state := range states {
		counts[state]++
	}
	return counts
}

// requireGroups checks the list of groups and the counts of the status. A group that nobody may move has its reasons.
func (n *numbers) requireGroups(when string, want map[string]string) {
	n.t.Helper()
	listed := make(map[string]string)
	for _, g := range all[api.AdminGroup](n, "/groups", nil) {
		listed[g.GroupID.String()] = g.State
		switch h := g.Hosted; {
		case g.State != "active" && g.State != "frozen" || g.Fault != "":
		case h == nil || h.Moves.Movable == api.MovableNo && !explained(h.Moves.Why):
			n.t.Errorf("%s: the group %s has no reason: %+v", when, g.GroupID, h)
		}
	}
	n.requireSame(when+", the list of groups", want, listed)
	var status api.Status
	n.get("/status", nil, &status)
	for _, state := range migration.GroupStates {
		n.requireSame(when+", groups "+string(state), countOf(want)[string(state)], status.Groups[string(state)])
		n.requireSame(when+", groups "+string(state), countOf(want)[string(state)],
			n.total("/groups", url.Values{"state": {string(state)}}))
	}
	n.requireSame(when+", mimictl groups list", len(want), len(n.tooled(0, "groups", "list").Items))
}

// requirePlan checks that the dry run has the groups that are here. Each has a member who can move it, or reasons.
func (n *numbers) requirePlan(when string, here int) {
	n.t.Helper()
	plan := all[api.DrainPlan](n, "/drain/plan", url.Values{"target": {serverB, serverC}})
	n.requireSame(when+", the dry run", here, len(plan))
	for _, p := range plan {
		if len(p.Moves) == 0 && !explained(reasons(p.Why)) {
			n.t.Errorf("%s: the dry run has no reason for %s: %+v", when, p.GroupID, p)
		}
	}
}

// requireDrain checks the groups of the drain, and its counts. A group that is stuck has its reasons.
func (n *numbers) requireDrain(when string, want map[string]string) {
	n.t.Helper()
	listed := make(map[string]string)
	for _, g := range all[api.DrainGroup](n, "/drain/groups", nil) {
		listed[g.GroupID.String()] = string(g.State)
		if g.State == api.DrainStuck && !explained(reasons(g.Why)) || g.State == api.DrainMoved && g.MovedTo == nil {
			n.t.Errorf("%s: the drain does not say why or where: %+v", when, g)
		}
	}
	n.requireSame(when+", the groups of the drain", want, listed)
	counts := countOf(want)
	var status, tooled api.Drain
	n.get("/drain", nil, &status)
	if err := json.Unmarshal([]byte(n.mimictl(0, "drain", "status", "-json")), &tooled); err != nil {
		n.t.Error(err)
	}
	n.requireSame(when+", mimictl drain status", status, tooled)
	for _, state := range api.DrainGroupStates {
		n.requireSame(when+", the drain "+string(state), counts[string(state)], status.Groups[state])
		n.requireSame(when+", the drain "+string(state), counts[string(state)],
			n.total("/drain/groups", url.Values{"state": {string(state)}}))
	}
	n.requireSame(when+", the total", len(want), status.Total)
	n.requireSame(when+", the rest", len(want)-counts["moved"]-counts["gone"], status.Left)
	n.requireSame(when+", mimictl drain report", len(want), len(n.tooled(3, "drain", "report").Items))
}

// requirePage fails the test unless the page, if the test looks at it, shows what SQL counts, and a reason for each
// group that is stuck.
func (n *numbers) requirePage(when string, c counted) {
	n.t.Helper()
	if !n.page {
		return
	}
	shown := harness.Look(n.t, n.url, "token-of-admin")
	for _, state := range migration.GroupStates {
		n.requireSame(when+", the page", c.groups[string(state)], shown.Groups[string(state)])
		n.requireSame(when+", the page", c.groups[string(state)], shown.Totals[string(state)])
	}
	for _, state := range api.DrainGroupStates {
		n.requireSame(when+", the page", c.drain[string(state)], shown.Drain[string(state)])
	}
	n.requireSame(when+", the page", c.drain["stuck"], shown.Stuck)
	n.requireSame(when+", the page, without a reason", 0, len(shown.WithoutReason))
}

func (n *numbers) requireSame(what string, want, got any) {
	n.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		n.t.Errorf("%s: %s", what, diff)
	}
}

// explained reports whether there is a reason, and each has a text and a remedy.
func explained(why []api.Reason) bool {
	return len(why) > 0 && !slices.ContainsFunc(why, func(r api.Reason) bool { return r.Text == "" || r.Remedy == "" })
}

// reasons leaves the targets out.
func reasons(why []api.DrainReason) (plain []api.Reason) {
	for _, r := range why {
		plain = append(plain, r.Reason)
	}
	return plain
}

// page is a page of a list of the admin API, or a list of the tool.
type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next"`
	Total int    `json:"total"`
}

// all reads all pages of a list. It fails the test if a page has another total than there are items.
func all[T any](n *numbers, path string, query url.Values) (items []T) {
	n.t.Helper()
	query = maps.Clone(query)
	if query == nil {
		query = url.Values{}
	}
	for {
		var p page[T]
		n.get(path, query, &p)
		items = append(items, p.Items...)
		if p.Next == "" {
			n.requireSame("the total of "+path+"?"+query.Encode(), len(items), p.Total)
			return items
		}
		query.Set("after", p.Next)
	}
}

// total is the number of items on all pages of a list.
func (n *numbers) total(path string, query url.Values) int {
	n.t.Helper()
	var p page[json.RawMessage]
	query.Set("limit", "1")
	n.get(path, query, &p)
	return p.Total
}

func (n *numbers) get(path string, query url.Values, answer any) {
	n.t.Helper()
	r := must(http.NewRequestWithContext(n.t.Context(), http.MethodGet,
		n.url+adminapi.PathPrefix+path+"?"+query.Encode(), nil))(n.t)
	r.Header.Set("Authorization", "Bearer token-of-admin")
	resp := must(http.DefaultClient.Do(r))(n.t)
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil || resp.StatusCode != http.StatusOK {
		n.t.Fatalf("%s: %d, %v", path, resp.StatusCode, err)
	}
}

// mimictl runs the tool, fails the test unless it exits with a status, and returns all that it prints.
func (n *numbers) mimictl(status int, args ...string) (output string) {
	n.t.Helper()
	out, stderr := n.run(status, args...)
	return out + stderr
}

// tooled is a list of the tool's in JSON.
func (n *numbers) tooled(status int, args ...string) (list page[json.RawMessage]) {
	n.t.Helper()
	out, _ := n.run(status, append(args, "-json")...)
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		n.t.Fatal(err)
	}
	n.requireSame("mimictl "+strings.Join(args, " "), len(list.Items), list.Total)
	return list
}

func (n *numbers) run(status int, args ...string) (stdout, stderr string) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), n.tool, args...)
	cmd.Env = append(os.Environ(), "MIMICTL_SERVER="+n.url, "MIMICTL_TOKEN=token-of-admin")
	out, err := cmd.Output()
	exit, failed := errors.AsType[*exec.ExitError](err)
	if err != nil && !failed {
		n.t.Fatal(err)
	}
	if failed {
		stderr = string(exit.Stderr)
	}
	if got := cmd.ProcessState.ExitCode(); got != status {
		n.t.Fatalf("mimictl %v exits with %d: %s%s", args, got, out, stderr)
	}
	return string(out), stderr
}
