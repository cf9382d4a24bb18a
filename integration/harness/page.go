package harness

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/needs"
)

// Shown is what the operator's page shows of a server.
type Shown struct {
	Groups        map[string]int `json:"groups"` // by state, in the status
	Totals        map[string]int `json:"totals"` // by state, below the list of groups
	Drain         map[string]int `json:"drain"`  // by state; nil before the first drain
	Stuck         int            `json:"stuck"`  // the rows of groups of the drain that nobody can move
	WithoutReason []string       `json:"without_reason"`
}

// Look opens the operator's page at a server's address in a browser, with the token of an administrator. It opens each
// view, and fails the test if the browser complains or the page has no content security policy.
func Look(t testing.TB, address, token string) *Shown {
	t.Helper()
	out, err := Browse(t, "look.mjs", address, token).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		t.Fatalf("the page: %v\n%s", err, exit.Stderr)
	}
	if err != nil {
		t.Fatal(err)
	}
	shown := new(Shown)
	if err := json.Unmarshal(out, shown); err != nil {
		t.Fatal(err)
	}
	return shown
}

// Browse makes the command that runs a script of integration/ui, which drives a browser.
func Browse(t testing.TB, script string, args ...string) *exec.Cmd {
	t.Helper()
	node, browser := needs.Client(t), needs.Chromium(t)
	root, err := ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{filepath.Join(root, "integration", "ui", script)}, args...)
	cmd := exec.CommandContext(t.Context(), node, args...)
	cmd.Env = append(os.Environ(), "CHROMIUM="+browser)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}
