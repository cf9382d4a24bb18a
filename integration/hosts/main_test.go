// Package hosts tests homeservers on the maintained fork of Dendrite: rooms of version 12, a federation with Dendrite
// v0.13.8, and an upgrade from it.
package hosts

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Run(m)) }

// fork builds dendrite-mimi for the fork and returns its path.
var fork = sync.OnceValues(func() (string, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	var log bytes.Buffer
	build := exec.Command("make", "-C", root, "HOST=element-hq", "build")
	build.Stdout, build.Stderr = &log, &log
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("build for the fork: %w\n%s", err, &log)
	}
	return filepath.Join(root, "build", "element-hq", "bin", "dendrite-mimi"), nil
})

// forked returns the path of dendrite-mimi for the fork.
func forked(t *testing.T) string {
	t.Helper()
	path, err := fork()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// onSQLite runs a test with SQLite, and with MIMI_SOAK also with PostgreSQL.
func onSQLite(t *testing.T, test func(*testing.T, *harness.TestNetwork)) {
	t.Run("SQLite", func(t *testing.T) { test(t, harness.NewTestNetwork(t)) })
	if soak {
		t.Run("PostgreSQL", func(t *testing.T) { test(t, harness.NewPostgresNetwork(t)) })
	}
}

// onPostgres runs a test with PostgreSQL, and with MIMI_SOAK also with SQLite.
func onPostgres(t *testing.T, test func(*testing.T, *harness.TestNetwork)) {
	t.Run("PostgreSQL", func(t *testing.T) { test(t, harness.NewPostgresNetwork(t)) })
	if soak {
		t.Run("SQLite", func(t *testing.T) { test(t, harness.NewTestNetwork(t)) })
	}
}

var soak = os.Getenv("MIMI_SOAK") != ""
