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
// draft's order, agree on the epoch authenticator, and write again. They go on after a reload of the page, after a
// kick, after a move back, and after each fault that the page's buttons make.
func TestTour(t *testing.T) {
	node, chromium := needs.Client(t), needs.Chromium(t)
	n := harness.NewTestNetwork(t)
	pace := 100 * time.Millisecond // so that buttons act in the middle of a move
	if *film != "" {
		pace = time.Second
	}
	address, err := serve(t.Context(), n.Network, pace)
	if err != nil {
		t.Fatal(err)
	}
	tour := exec.CommandContext(harness.Within(t), node, "tour.mjs", address, *film)
	tour.Env = append(tour.Environ(), "CHROMIUM="+chromium)
	tour.Cancel = func() error { return tour.Process.Signal(syscall.SIGTERM) } // it then says where it was
	if out, err := tour.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if *film == "" {
		return
	}
	if err := writeFilm(*film); err != nil {
		t.Fatal(err)
	}
}
