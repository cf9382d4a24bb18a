// Package needs finds what tests need of a machine besides Go and a C compiler. Where something is absent, the test is
// skipped with a line that begins with NOT TESTED. Where the environment sets MIMI_REQUIRE_ALL, the test fails instead.
package needs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

const (
	requireEnv = "MIMI_REQUIRE_ALL"
	vectorsEnv = "MLS_TEST_VECTORS"
)

// Vectors is the folder of the test vectors of the MLS working group: the one that MLS_TEST_VECTORS names, or else
// shared/vectors/mls beside the repository.
func Vectors(tb testing.TB) string {
	tb.Helper()
	folder := os.Getenv(vectorsEnv)
	if folder == "" {
		folder = filepath.Join(root(tb), "..", "shared", "vectors", "mls")
	}
	if !exists(folder) {
		missing(tb, "there are no MLS test vectors at "+folder+": set "+vectorsEnv)
	}
	return folder
}

// PostgreSQL is the folder of the programs of the newest PostgreSQL server that is installed.
func PostgreSQL(tb testing.TB) string {
	tb.Helper()
	if path, err := exec.LookPath("pg_ctl"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err != nil {
			tb.Fatal(err)
		}
		return filepath.Dir(path)
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_ctl") // where Debian keeps them off the path
	if err != nil {
		tb.Fatal(err)
	}
	if len(found) == 0 {
		missing(tb, "PostgreSQL is not installed")
	}
	return filepath.Dir(slices.Max(found))
}

// PgBouncer is the path of the connection pooler PgBouncer.
func PgBouncer(tb testing.TB) string {
	tb.Helper()
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} { // where Debian keeps it off the path of users
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing(tb, "PgBouncer is not installed")
	return ""
}

// Client is the path of Node.js, where the TypeScript client is built for it.
func Client(tb testing.TB) (node string) {
	tb.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		missing(tb, "Node.js is not installed")
	}
	if !exists(filepath.Join(root(tb), "clients", "ts", "dist", "src", "mls.js")) {
		missing(tb, "the TypeScript client is not built: make test-ts builds it")
	}
	return node
}

// OpenMLS says whether the packages of the client on OpenMLS are installed, and what it takes of the TypeScript client.
func OpenMLS(tb testing.TB) {
	tb.Helper()
	Client(tb)
	if !exists(filepath.Join(root(tb), "integration", "openmls", "node_modules", "@wireapp", "core-crypto")) {
		missing(tb, "the packages of integration/openmls are not installed: make test-integration installs them")
	}
}

// Synapse is the folder in which a Synapse is installed, where the test may mount and run it.
func Synapse(tb testing.TB) (folder string) {
	tb.Helper()
	folder, err := SynapseFolder()
	if err != nil {
		missing(tb, err.Error())
	}
	return folder
}

// SynapseFolder is Synapse for a program that is no test.
func SynapseFolder() (string, error) {
	cache, err := os.UserCacheDir()
	folder := filepath.Join(cache, "mimiport", "synapse")
	if err != nil || !exists(folder) {
		return "", errors.New("Synapse is not installed: make synapse installs it")
	}
	if err := exec.Command("unshare", "--mount", "true").Run(); err != nil {
		return "", fmt.Errorf("Synapse is run by root only: %w", err)
	}
	return folder, nil
}

func missing(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv(requireEnv) != "" {
		tb.Fatalf("%s, and %s is set", what, requireEnv)
	}
	tb.Skip("NOT TESTED:", what)
}

// root is the repository: the nearest folder above a test's own that holds a go.mod.
func root(tb testing.TB) string {
	tb.Helper()
	folder, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for !exists(filepath.Join(folder, "go.mod")) {
		if folder == filepath.Dir(folder) {
			tb.Fatal("there is no go.mod above the test")
		}
		folder = filepath.Dir(folder)
	}
	return folder
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
