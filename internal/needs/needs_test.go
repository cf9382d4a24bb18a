package needs

import (
	"runtime"
	"testing"
)

// TestMachine has a subtest for each need. make test prints the lines of the skipped ones.
func TestMachine(t *testing.T) {
	t.Run("vectors", func(t *testing.T) { Vectors(t) })
	t.Run("PostgreSQL", func(t *testing.T) { PostgreSQL(t) })
	t.Run("PgBouncer", func(t *testing.T) { PgBouncer(t) })
	t.Run("client", func(t *testing.T) { Client(t) })
	t.Run("Chromium", func(t *testing.T) { Chromium(t) })
	t.Run("OpenMLS", func(t *testing.T) { OpenMLS(t) })
	t.Run("Synapse", func(t *testing.T) { Synapse(t) })
	for _, name := range []string{"curl", "jq", "sqlite3", "pg_dump", "systemd-analyze"} { // for the commands of documents
		t.Run(name, func(t *testing.T) { Program(t, name) })
	}
}

// outcome records how a test would have ended.
type outcome struct {
	testing.TB
	skipped, failed bool
}

func (o *outcome) Skip(...any) {
	o.skipped = true
	runtime.Goexit()
}

func (o *outcome) Fatalf(string, ...any) {
	o.failed = true
	runtime.Goexit()
}

// endOf runs a test to its end and returns its outcome.
func endOf(t *testing.T, test func(testing.TB)) *outcome {
	o := &outcome{TB: t}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		test(o)
	}()
	<-ended
	return o
}

// TestMissing: a test that cannot run is skipped, with or without CI in the environment. It fails when
// MIMI_REQUIRE_ALL is set.
func TestMissing(t *testing.T) {
	absent := t.TempDir() + "/absent"
	t.Setenv(vectorsEnv, absent)
	t.Setenv("PATH", absent)
	t.Setenv("XDG_CACHE_HOME", absent)
	for name, need := range map[string]func(testing.TB){
		"vectors": func(tb testing.TB) { Vectors(tb) },
		"client":  func(tb testing.TB) { Client(tb) },
		"OpenMLS": func(tb testing.TB) { OpenMLS(tb) },
		"Synapse": func(tb testing.TB) { Synapse(tb) },
		"jq":      func(tb testing.TB) { Program(tb, "jq") },
	} {
		for _, c := range []struct{ ci, require string }{{"", ""}, {"true", ""}, {"", "1"}, {"true", "1"}} {
			t.Setenv("CI", c.ci)
			t.Setenv(requireEnv, c.require)
			if o := endOf(t, need); o.skipped != (c.require == "") || o.failed == o.skipped {
				t.Errorf("%s, %+v: skipped %t, failed %t", name, c, o.skipped, o.failed)
			}
		}
	}
}

// TestPresent: needs finds a folder that exists, and does not skip the test.
func TestPresent(t *testing.T) {
	folder := t.TempDir()
	t.Setenv(vectorsEnv, folder)
	if got := Vectors(t); got != folder {
		t.Errorf("the vectors are at %s, not %s", got, folder)
	}
	if got := root(t); !exists(got + "/internal/needs/needs_test.go") {
		t.Errorf("%s is not the repository", got)
	}
}
