package kill

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// jumps are how far clocks jump, by server.
var jumps = []struct {
	name   string
	sample bool // always tried
	ahead  map[byte]time.Duration
}{
	{"S over decide_by", true, map[byte]time.Duration{'S': time.Minute}},
	{"S back", false, map[byte]time.Duration{'S': -time.Hour}},
	{"T over the offer's end", false, map[byte]time.Duration{'T': time.Hour}},
	{"T back", false, map[byte]time.Duration{'T': -time.Hour}},
	{"S and T apart", false, map[byte]time.Duration{'S': -30 * time.Minute, 'T': 30 * time.Minute}},
	{"S and T apart, the other way", false, map[byte]time.Duration{'S': 30 * time.Minute, 'T': -30 * time.Minute}},
}

// Profile, section 6: "S's clock alone decides". A clock jumps in the middle of a migration, stays wrong while others
// follow, and jumps back in the middle of one: all of them end, the members and one Delivery Service agree, and nothing
// that was acknowledged is lost.
func TestClockJumps(t *testing.T) {
	g := newLinkedGroup(t)
	all := os.Getenv(soakEnv) != ""
	for _, j := range jumps {
		if !all && !j.sample {
			continue
		}
		jump := func(t *testing.T, _ *group, r roles) relief {
			for role, ahead := range j.ahead {
				setClock(t, r[role], ahead)
			}
			return func(*testing.T) {}
		}
		back := func(t *testing.T, g *group, _ roles) relief {
			for _, s := range g.servers {
				setClock(t, s, 0)
			}
			return func(*testing.T) {}
		}
		if !t.Run(j.name, func(t *testing.T) { g.suffer(t, jump); g.suffer(t, back) }) {
			return
		}
	}
}

// setClock lets a server's clock jump, so that it is ahead of the right time.
func setClock(t *testing.T, s *harness.Server, ahead time.Duration) {
	t.Helper()
	file := filepath.Join(s.Dir, clockFile)
	if err := os.WriteFile(file+".new", []byte(ahead.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil { // at once: the server reads it all the time
		t.Fatal(err)
	}
}
