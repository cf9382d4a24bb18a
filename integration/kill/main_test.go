// Package kill shows that the hand-over survives anything: real homeservers are killed at every durable write and every
// send, are paused, run out of disk, and have wrong clocks, and what goes between them is cut, held up and lost, while
// a group that is in use moves between them.
package kill

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// soakEnv names the environment variable that asks for all there is to try, which takes many minutes, and not for a
// sample.
const soakEnv = "MIMI_SOAK"

// clockEnv names the environment variable with the file that says how far a server's clock is ahead; here one in each
// server's own directory, where it runs.
const (
	clockEnv  = "MIMI_CLOCK"
	clockFile = "clock"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run builds the server command with fail points, which no other build has.
func run(m *testing.M) int {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("dendrite-mimi-failpoints-%d", os.Getpid()))
	defer os.RemoveAll(dir) // nolint: errcheck // in the temporary directory
	path := filepath.Join(dir, "dendrite-mimi")
	err := errors.Join(harness.Build(path, "-tags", "failpoints"),
		os.Setenv(harness.BinaryEnv, path), os.Setenv(clockEnv, clockFile))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
