package main

import (
	"flag"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/internal/needs"
)

// film names a folder for pictures of the page. With it, the seven messages pass slowly.
var film = flag.String("film", "", "a folder for pictures of the page, such as ../../docs/demo-web")

func TestMain(m *testing.M) { os.Exit(harness.Run(m)) }

// TestTour: in a real browser, the page's clients write both ways, move the group with the seven messages in the
// draft's order, agree on the epoch authenticator, and write again. They go on after a reload of the page, after a kick
// and after a move back.
func TestTour(t *testing.T) {
	pace := time.Duration(0)
	if *film != "" {
		pace = time.Second
	}
	visit(t, pace, "tour.mjs", *film)
	if *film == "" {
		return
	}
	if err := writeFilm(*film); err != nil {
		t.Fatal(err)
	}
}

// TestFaults: the clients go on after each fault that the page's buttons make before a move and in the middle of one,
// and after a move that is given up.
func TestFaults(t *testing.T) {
	visit(t, 200*time.Millisecond, "faults.mjs") // so that buttons act in the middle of a move
}

// visit lets a script visit the page in a browser.
func visit(t *testing.T, pace time.Duration, script string, args ...string) {
	t.Helper()
	node, chromium := needs.Client(t), needs.Chromium(t)
	n := harness.NewTestNetwork(t)
	address, err := serve(t.Context(), n.Network, pace)
	if err != nil {
		t.Fatal(err)
	}
	visitor := exec.CommandContext(harness.Within(t), node, append([]string{script, address}, args...)...)
	visitor.Env = append(visitor.Environ(), "CHROMIUM="+chromium)
	visitor.Cancel = func() error { return visitor.Process.Signal(syscall.SIGTERM) } // it then says where it was
	if out, err := visitor.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
