package kill

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// jumps are sets of wrong clocks. ahead is how far the clock of S, T or H is ahead.
var jumps = []struct {
	name   string
	sample bool // also without MIMI_SOAK
	ahead  map[byte]time.Duration
}{
	{"S over decide_by", true, map[byte]time.Duration{'S': time.Minute}},
	{"S back", false, map[byte]time.Duration{'S': -time.Hour}},
	{"T over the offer's end", false, map[byte]time.Duration{'T': time.Hour}},
	{"T back", false, map[byte]time.Duration{'T': -time.Hour}},
	{"S and T apart", false, map[byte]time.Duration{'S': -30 * time.Minute, 'T': 30 * time.Minute}},
	{"S and T apart, the other way", false, map[byte]time.Duration{'S': 30 * time.Minute, 'T': -30 * time.Minute}},
}

// Profile, section 6: "S's clock alone decides". A clock jumps during a migration. It stays wrong during other
// migrations, and jumps back during one. All migrations end. The members and one Delivery Service then agree, and no
// acknowledged message or Commit is lost.
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

// setClock sets how far a server's clock is ahead of the right time.
func setClock(t *testing.T, s *harness.Server, ahead time.Duration) {
	t.Helper()
	file := filepath.Join(s.Dir, clockFile)
	if err := os.WriteFile(file+".new", []byte(ahead.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil { // atomic, as the server reads it at any time
		t.Fatal(err)
	}
}
