package kill

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// roles are the servers of a group when the first migration begins. S is the source and T the target. H is the home of
// a third member.
type roles map[byte]*harness.Server

func (g *group) roles(host int) roles {
	return roles{'S': g.servers[host], 'T': g.servers[1-host], 'H': g.servers[len(g.servers)-1]}
}

// fault is a fault of servers or of the network between them. It begins while the group moves back and forth, and lasts
// longer than decide_by.
type fault struct {
	name   string
	strike strike
}

type strike func(t *testing.T, g *group, r roles) relief

// relief ends a fault.
type relief = func(t *testing.T)

// serverFaults returns the faults of one server.
func serverFaults() (all []fault) {
	for _, who := range []byte("STH") {
		all = append(all,
			fault{string(who) + " stands still", func(t *testing.T, _ *group, r roles) relief {
				return pause(t, r[who])
			}},
			fault{string(who) + " is killed", func(t *testing.T, _ *group, r roles) relief {
				return kill(t, r[who])
			}})
	}
	return all
}

func pause(t *testing.T, s *harness.Server) (resume func(*testing.T)) {
	t.Helper()
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T) {
		if err := s.Resume(); err != nil {
			t.Fatal(err)
		}
	}
}

func kill(t *testing.T, s *harness.Server) (start func(*testing.T)) {
	t.Helper()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T) {
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// networkFaults returns the faults of the network: one way between two servers, both ways, and between all servers.
func networkFaults() (all []fault) {
	for _, f := range []struct {
		name string
		harness.Fault
	}{
		{"connections are refused", harness.Refused}, {"a black hole", harness.BlackHole},
		{"answers are lost", harness.AnswersLost}, {"it is slow", harness.Slow},
	} {
		for _, where := range []struct {
			name string
			ways []string // from, to
		}{
			{"from S to T", []string{"ST"}}, {"from T to S", []string{"TS"}}, {"between S and T", []string{"ST", "TS"}},
			{"from H to S", []string{"HS"}}, {"from S to H", []string{"SH"}}, {"between H and S", []string{"HS", "SH"}},
			{"from H to T", []string{"HT"}}, {"from T to H", []string{"TH"}}, {"between H and T", []string{"HT", "TH"}},
			{"everywhere", []string{"ST", "TS", "HS", "SH", "HT", "TH"}},
		} {
			all = append(all, fault{f.name + " " + where.name, func(_ *testing.T, g *group, r roles) relief {
				for _, way := range where.ways {
					g.network.Links.Set(r[way[0]], r[way[1]], f.Fault)
				}
				return func(*testing.T) { g.network.Links.Mend() }
			}})
		}
	}
	return all
}

// sampledFaults are the faults that the test also tries without MIMI_SOAK.
var sampledFaults = []string{
	"S stands still", "a black hole between S and T", "answers are lost from S to T",
	"connections are refused between H and S",
}

// lasting is the duration of a fault. It is longer than decide_by in section.
const lasting = 5 * time.Second

// Profile, section 6: "S's clock alone decides", and T "never infers an abort from silence". Servers stop or die, or
// the network fails, for longer than decide_by. Afterwards the members and one Delivery Service agree, and no
// acknowledged message or Commit is lost.
func TestFaults(t *testing.T) {
	g := newLinkedGroup(t)
	all := os.Getenv(soakEnv) != ""
	for _, f := range slices.Concat(serverFaults(), networkFaults()) {
		if !all && !slices.Contains(sampledFaults, f.name) {
			continue
		}
		if !t.Run(f.name, func(t *testing.T) { g.suffer(t, f.strike) }) {
			return
		}
	}
}

// suffer begins and ends a fault while the members use the group and move it back and forth.
func (g *group) suffer(t *testing.T, strike strike) {
	began := time.Now()
	host := g.requireSettled(t)
	stop := g.traffic(t)
	enough := make(chan struct{})
	end := g.migrate(t, 1-host, enough)
	harness.Wait(t.Context(), 300*time.Millisecond) // somewhere in a migration
	relieve := strike(t, g, g.roles(host))
	harness.Wait(t.Context(), lasting)
	relieve(t)
	harness.Wait(t.Context(), time.Second)
	close(enough)
	outcome := end()
	stop()
	host = g.requireSettled(t)
	n := g.collect(t)
	g.audit(t, host)
	t.Logf("the last migration: %+v; %d messages; %v", outcome, n, time.Since(began).Round(time.Second/10))
}

// TestFullDisk: a server whose disk is full loses nothing that it has acknowledged, and goes on when there is space
// again. The test mounts a file system, and runs only with MIMI_SOAK.
func TestFullDisk(t *testing.T) {
	if os.Getenv(soakEnv) == "" {
		return
	}
	for _, full := range []string{source, target} {
		t.Run(full, func(t *testing.T) {
			disk := t.TempDir()
			if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
			sections := []string{section, section}
			i := map[string]int{source: 0, target: 1}[full]
			store := "file:" + filepath.Join(disk, "mimi_portability.db")
			sections[i] = strings.Replace(section, `{{.Database "mimi_portability"}}`, store, 1)
			g := newGroup(t, harness.NewTestNetwork(t), sections...)
			g.stores[i] = store
			g.suffer(t, func(t *testing.T, _ *group, _ roles) relief { return fill(t, disk) })
		})
	}
}

// fill fills a disk. The result frees the space again.
func fill(t *testing.T, disk string) (empty func(*testing.T)) {
	t.Helper()
	ballast := filepath.Join(disk, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = fmt.Fprint(f, rand.Text())
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func(t *testing.T) {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
}
