package kill

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// The sides of a migration.
const (
	source = "source"
	target = "target"
)

// death starts a server, which dies when it reaches a fail point. With an empty point the server does not die.
type death struct {
	side  string
	point string // %s stands for before, and in another run for after
}

// plot is a list of deaths during a migration, one after the other. A dead server starts again with its next death or
// at the end.
type plot []death

// plots reach every fail point of a hand-over. Each plot runs twice, with before and after in place of %s.
var plots = []plot{
	{{source, "send/status:%s:1"}},
	{{source, "apply/frozen:%s:1"}},
	{{source, "send/content:%s:1"}},
	{{source, "apply/decided:%s:1"}},
	{{source, "send/confirmation:%s:1"}},
	{{source, "apply/moved:%s:1"}},
	{{source, "apply/application:%s:3"}},
	{{source, "apply/commit:%s:1"}},
	{{source, "send/to-device:%s:4"}},
	{{source, "apply/done:%s:4"}},
	{{target, "apply/offered:%s:1"}},
	{{target, "apply/staged:%s:1"}},
	{{target, "apply/active:%s:1"}},
	{{target, "apply/application:%s:3"}},
	{{target, "apply/commit:%s:1"}},
	{{target, "send/to-device:%s:4"}},
	{{target, "apply/done:%s:2"}},
	// The source does not receive the vote, or the target does not receive the outcome.
	{{target, "apply/staged:before:1"}, {source, "retry:%s:1"}},
	{{target, "apply/staged:after:1"}, {source, "apply/aborted:%s:1"}},
	{{target, "apply/staged:after:1"}, {source, "apply/aborted:after:1"}, {target, ""}, {source, "send/abort:%s:1"}},
	{{target, "apply/staged:after:1"}, {source, "apply/aborted:after:1"}, {source, ""}, {target, "apply/dropped:%s:1"}},
	{{source, "apply/decided:after:1"}, {target, "send/status:before:1"}},
	{{source, "apply/decided:after:1"}, {target, "retry:%s:1"}},
}

// sample are the plots, by number, that also run without MIMI_SOAK. The value is in place of %s.
var sample = map[int]string{1: "after", 2: "after", 3: "before", 4: "after", 11: "after", 12: "before", 20: "before"}

// elsewhere are the fail points outside a hand-over.
var elsewhere = []string{
	"apply/group-reserved", "apply/group-active", "setting", "forget", "hasten", "apply/rows", "apply/evidence",
	"apply/snapshot", "apply/purge", "last-resort", "apply/announcement",
}

// Profile, section 6: "Nothing signed leaves before its state is committed to the database; the worker that resumes
// after a crash is the one that runs every time." The test kills a server before and after each durable write and each
// send, while both members send and commit. When all servers run again, the members and exactly one Delivery Service
// agree, and no acknowledged message or Commit is lost.
func TestKilledAtEveryPoint(t *testing.T) { killedAtEveryPoint(t, harness.NewTestNetwork(t)) }

// TestKilledOnPostgres is TestKilledAtEveryPoint on PostgreSQL.
func TestKilledOnPostgres(t *testing.T) { killedAtEveryPoint(t, harness.NewPostgresNetwork(t)) }

// TestKilledBeforeThePointer: the homeserver of the user who moves the group dies before and after it stores the room's
// pointer. The pointer comes all the same.
func TestKilledBeforeThePointer(t *testing.T) {
	g := newGroup(t, harness.NewTestNetwork(t), section, section)
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			g.play(t, plot{{target, "apply/announcement:" + when + ":1"}})
			g.requirePointer(t)
		})
	}
}

func killedAtEveryPoint(t *testing.T, network *harness.TestNetwork) {
	g := newGroup(t, network, section, section)
	all := os.Getenv(soakEnv) != ""
	known := map[string]bool{}
	for i, pl := range plots {
		for _, when := range []string{"before", "after"} {
			name, full := pl.at(when)
			for _, d := range full {
				known[d.point] = true
			}
			if !all && sample[i] != when || when == "after" && slices.Equal(full, pl) {
				continue
			}
			if !t.Run(name, func(t *testing.T) { g.play(t, full) }) {
				return // the group is not ready for the next plot
			}
		}
	}
	g.requireKnown(t, known)
	g.askPeers(t)
}

// at returns the plot with when (before or after) in place of %s, and its name.
func (pl plot) at(when string) (name string, full plot) {
	for _, d := range pl {
		if strings.Contains(d.point, "%s") {
			d.point = fmt.Sprintf(d.point, when)
		}
		full = append(full, d)
		name += "_" + d.side + "_" + d.point
	}
	return name[1:], full
}

// play plays a plot during a migration, and checks the group afterwards.
func (g *group) play(t *testing.T, pl plot) {
	began := time.Now()
	from := g.requireSettled(t)
	side := map[string]int{source: from, target: 1 - from}
	first := g.servers[side[pl[0].side]]
	g.arm(t, first, pl[0].point)
	stop := g.traffic(t)
	dead := make(chan struct{})
	end := g.migrate(t, 1-from, dead)
	for i, d := range pl {
		s := g.servers[side[d.side]]
		if i > 0 {
			g.arm(t, s, d.point)
		}
		if d.point != "" {
			awaitDeath(t, s, d)
		}
	}
	close(dead)
	for _, s := range g.servers {
		g.arm(t, s, "")
	}
	outcome := end()
	stop()
	host := g.requireSettled(t)
	n := g.collect(t)
	g.audit(t, host)
	t.Logf("the last migration: %+v; %d messages; %v", outcome, n, time.Since(began).Round(time.Second/10))
}

// arm restarts a server so that it dies at a point. It does nothing if the server runs with this point already.
func (g *group) arm(t *testing.T, s *harness.Server, point string) {
	t.Helper()
	env := []string{"MIMI_FAILPOINT=" + point}
	if slices.Equal(s.Env, env) || s.Env == nil && point == "" {
		return
	}
	s.Env = env
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil && !(point != "" && ended(s)) { // it may die while it starts
		t.Fatal(err)
	}
}

func ended(s *harness.Server) bool {
	select {
	case <-s.Exited():
		return true
	default:
		return false
	}
}

func awaitDeath(t *testing.T, s *harness.Server, d death) {
	t.Helper()
	late := time.NewTimer(2 * harness.Patience)
	defer late.Stop()
	select {
	case <-s.Exited():
	case <-late.C:
		t.Fatalf("the %s does not reach %s", d.side, d.point)
	}
}

var passed = regexp.MustCompile(`(?m)^failpoint (.*)$`)

// requireKnown fails the test if a server has passed a fail point that no plot leads to. It logs all points.
func (g *group) requireKnown(t *testing.T, known map[string]bool) {
	t.Helper()
	seen := map[string]int{}
	for _, s := range g.servers {
		log, err := os.ReadFile(s.LogFile())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range passed.FindAllSubmatch(log, -1) {
			seen[string(m[1])]++
		}
	}
	for point := range known {
		if name := point[:max(0, strings.LastIndex(point, ":"))]; name != "" {
			seen[name] += 0
		}
	}
	for _, point := range slices.Sorted(maps.Keys(seen)) {
		t.Logf("%6d × %s", seen[point], point)
		name, _, _ := strings.Cut(point, ":")
		isKnown := slices.Contains(elsewhere, name)
		for k := range known {
			isKnown = isKnown || strings.HasPrefix(k, point+":")
		}
		if !isKnown {
			t.Errorf("no plot leads to %s", point)
		}
	}
}
