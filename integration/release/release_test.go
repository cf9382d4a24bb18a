// Package release tests the programs that make release builds.
package release

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const version = "v0.0.0-test"

// TestReproducible: two builds of a release, from two folders, have the same files. The programs are static, and the
// checksums are right. The short form builds mimictl alone. With MIMI_SOAK the test builds all, and compiles everything
// twice.
func TestReproducible(t *testing.T) {
	if os.Getenv("MIMI_SOAK") == "" {
		requireSame(t, []string{"mimictl"}, nil)
		return
	}
	folder := requireSame(t, []string{"dendrite-mimi", "mimictl"}, []string{"GOCACHE=" + t.TempDir()})
	said, err := exec.Command(filepath.Join(folder, "dendrite-mimi"), "-version").Output()
	want := "github.com/matrix-org/dendrite/contrib/mimi " + version + "\n"
	if err != nil || !strings.HasPrefix(string(said), want) {
		t.Errorf("-version says %q, %v", said, err)
	}
}

// requireSame makes a release of programs in two folders, the second with more environment variables, and compares the
// two. It returns the folder of the first.
func requireSame(t *testing.T, programs, env []string) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	one, another := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "another", "folder")
	copySources(t, root, one)
	copySources(t, one, another)
	first, second := release(t, one, programs, nil), release(t, another, programs, env)
	var sums strings.Builder
	for _, program := range programs {
		for _, name := range []string{program, program + ".cdx.json"} {
			a, b := read(t, first, name), read(t, second, name)
			if !bytes.Equal(a, b) {
				t.Errorf("%s differs", name)
			}
			sum := sha256.Sum256(a)
			fmt.Fprintf(&sums, "%s  %s\n", hex.EncodeToString(sum[:]), name)
		}
		requireStatic(t, filepath.Join(first, program))
	}
	if got := string(read(t, first, "SHA256SUMS")); got != sums.String() {
		t.Errorf("SHA256SUMS is\n%s\nand not\n%s", got, &sums)
	}
	return first
}

// copySources copies a checkout into a new folder.
func copySources(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, from, nil, "bash", "-c", `. hosts/sources.sh && sources . | tar -c --null -T - | tar -x -C "$1"`, "-", to)
}

// release makes a release in a checkout. It returns the folder of the release.
func release(t *testing.T, folder string, programs, env []string) string {
	t.Helper()
	run(t, folder, env, "make", "release", "VERSION="+version, "PROGRAMS="+strings.Join(programs, " "))
	return filepath.Join(folder, "release")
}

func run(t *testing.T, dir string, env []string, command string, args ...string) {
	t.Helper()
	cmd := exec.Command(command, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

func read(t *testing.T, folder, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// requireStatic fails if a program needs a loader or a library.
func requireStatic(t *testing.T, program string) {
	t.Helper()
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	needs, err := f.ImportedLibraries()
	if err != nil || len(needs) > 0 || f.Section(".interp") != nil {
		t.Errorf("%s needs %v, %v", program, needs, err)
	}
}
