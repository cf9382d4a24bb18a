// Package kill tests the hand-over under faults. A group in use moves between real homeservers. The tests kill them at
// every durable write and every send, pause them, fill their disks, and set their clocks wrong. They cut the
// connections between the servers, delay data and drop answers.
package kill

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// soakEnv is the environment variable that makes the tests try everything, which takes many minutes. Without it they
// try a sample.
const soakEnv = "MIMI_SOAK"

// clockEnv is the environment variable with the path of a file, which says how far a server's clock is ahead. The path
// is relative to the server's directory.
const (
	clockEnv  = "MIMI_CLOCK"
	clockFile = "clock"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run builds the server command with fail points, and runs the tests with it.
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
