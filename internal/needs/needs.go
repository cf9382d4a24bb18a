// Package needs finds the programs and files that tests need in addition to Go and a C compiler. When something is
// missing, it skips the test with a line that begins with NOT TESTED. When the environment sets MIMI_REQUIRE_ALL, it
// fails the test instead.
package needs

import (
	"cmp"
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

// Vectors returns the folder of the test vectors of the MLS working group: the folder in MLS_TEST_VECTORS, or by
// default shared/vectors/mls beside the repository.
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

// PostgreSQL returns the folder of the programs of the newest installed PostgreSQL server.
func PostgreSQL(tb testing.TB) string {
	tb.Helper()
	if path, err := exec.LookPath("pg_ctl"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err != nil {
			tb.Fatal(err)
		}
		return filepath.Dir(path)
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_ctl") // Debian's place, which is not in PATH
	if err != nil {
		tb.Fatal(err)
	}
	if len(found) == 0 {
		missing(tb, "PostgreSQL is not installed")
	}
	return filepath.Dir(slices.Max(found))
}

// PgBouncer returns the path of the connection pooler PgBouncer.
func PgBouncer(tb testing.TB) string {
	tb.Helper()
	// Debian's place, which is not in the PATH of users
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	missing(tb, "PgBouncer is not installed")
	return ""
}

// Prometheus returns the paths of Prometheus and of its tool.
func Prometheus(tb testing.TB) (server, tool string) {
	tb.Helper()
	server, err := exec.LookPath("prometheus")
	if err == nil {
		tool, err = exec.LookPath("promtool")
	}
	if err != nil {
		missing(tb, "Prometheus is not installed")
	}
	return server, tool
}

// Client returns the path of Node.js. The test also needs the built TypeScript client.
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

// Chromium returns the path of the browser that tests drive: CHROMIUM, or else Debian's. clients/ts/test/needs.ts finds
// the same one.
func Chromium(tb testing.TB) (path string) {
	tb.Helper()
	path = cmp.Or(os.Getenv("CHROMIUM"), "/usr/bin/chromium")
	if !exists(path) {
		missing(tb, "there is no "+path+": set CHROMIUM")
	}
	return path
}

// OpenMLS checks that the packages of the client on OpenMLS are installed, and calls Client.
func OpenMLS(tb testing.TB) {
	tb.Helper()
	Client(tb)
	if !exists(filepath.Join(root(tb), "integration", "openmls", "node_modules", "@wireapp", "core-crypto")) {
		missing(tb, "the packages of integration/openmls are not installed: make test-integration installs them")
	}
}

// Synapse returns the folder of an installed Synapse. Only root can run it.
func Synapse(tb testing.TB) (folder string) {
	tb.Helper()
	folder, err := SynapseFolder()
	if err != nil {
		missing(tb, err.Error())
	}
	return folder
}

// SynapseFolder is Synapse for a program that is not a test.
func SynapseFolder() (string, error) {
	cache, err := os.UserCacheDir()
	folder := filepath.Join(cache, "mimiport", "synapse")
	if err != nil || !exists(folder) {
		return "", errors.New("Synapse is not installed: make synapse installs it")
	}
	if err := exec.Command("unshare", "--mount", "true").Run(); err != nil {
		return "", fmt.Errorf("only root can run Synapse: %w", err)
	}
	return folder, nil
}

// Program returns the path of a program that is in PATH.
func Program(tb testing.TB, name string) (path string) {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(tb, name+" is not installed")
	}
	return path
}

func missing(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv(requireEnv) != "" {
		tb.Fatalf("%s, and %s is set", what, requireEnv)
	}
	tb.Skip("NOT TESTED:", what)
}

// root returns the folder of the repository: the nearest folder with a go.mod above the test's own folder.
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
