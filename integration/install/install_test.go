// Package install tests that docs/install.md leads from an empty machine to the first group.
package install

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/needs"
)

// host is the host's module, and networks the networks of docs/trial.md.
const (
	host     = "github.com/matrix-org/dendrite"
	networks = `allow_networks: [127.0.0.0/8, "::1/128"]`
)

// A test runs the commands of docs/install.md for which one needs not be root. Then there is a group with a message,
// and a backup. With the same programs it runs docs/trial.md, where a second server is emptied.
func TestInstallPage(t *testing.T) {
	needs.Client(t)
	needs.Program(t, "jq")
	needs.Program(t, "curl")
	needs.Program(t, "openssl")
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	script := "set -euo pipefail\ntrap 'kill $(jobs -p); wait' EXIT\n" + commands(t, root, "install.md") +
		commands(t, root, "trial.md")
	if strings.Contains(host, "/element-hq/") { // as trial.md says
		script = strings.NewReplacer(
			"\n  federation: {"+networks+"}\nEND\n",
			"\nEND\n    sed -i 's|allow_networks: .*|"+networks+"|' \"$1/dendrite.yaml\"\n",
		).Replace(script)
	}
	for _, port := range []string{"8008", "8108", "8109", "8448", "8449"} {
		script = strings.ReplaceAll(script, "localhost:"+port, free(t))
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	home := t.TempDir()
	cmd.Dir, cmd.Env = root, append(os.Environ(), "HOME="+home)
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH"} { // as they are outside of that home
		if value, err := exec.Command("go", "env", name).Output(); err == nil && len(bytes.TrimSpace(value)) > 0 {
			cmd.Env = append(cmd.Env, name+"="+string(bytes.TrimSpace(value)))
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its children end with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	if err != nil {
		server, _ := os.ReadFile(filepath.Join(home, "homeserver", "homeserver.log")) // absent before the start
		t.Fatalf("%v\n%s\nThe homeserver:\n%s", err, out, server)
	}
	for _, want := range []string{
		`(?m)^true$`, `(?m)^source: power_level$`, `"event":"message"|"text":"hello"`,
		`(?m)^[\w-]{43} +active +0 +1 .*@alice:example.org$`, `(?m)^mimiport_groups +1 rows$`, `(?m)^taken `,
		`(?m)^2 of 3 groups can move$`, `(?m)^done: 3 of 3 groups no longer here$`, `(?m)^moved to localhost:\d+: 3 groups$`,
	} {
		if !regexp.MustCompile(want).Match(out) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
	home = filepath.Join(home, "homeserver")
	for _, name := range []string{"matrix_key.pem", "dendrite.yaml", "var/mimi_portability.db"} {
		info, err := os.Stat(filepath.Join(home, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	uninstall(t, home)
}

// commands returns the commands of a page that need not be root.
func commands(t *testing.T, root, name string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, block := range regexp.MustCompile("(?s)\n```sh\n(.*?)```\n").FindAllSubmatch(page, -1) {
		text.Write(block[1])
	}
	return text.String()
}

// uninstall checks that mimictl finds what a real server has stored, and removes it.
func uninstall(t *testing.T, home string) {
	t.Helper()
	for _, more := range [][]string{nil, {"-lose-groups", "-homeserver-is-stopped", "-yes"}} {
		cmd := exec.CommandContext(t.Context(), "./mimictl", append([]string{
			"uninstall", "-db", "file:var/mimi_portability.db", "-jetstream", "var"}, more...)...)
		cmd.Dir = home
		out, err := cmd.CombinedOutput()
		consumers := bytes.Count(out, []byte("consumer DendriteMimiport"))
		if more == nil && (err == nil || !bytes.Contains(out, []byte("groups that are still here: 1"))) ||
			more != nil && (err != nil || consumers != 2) {
			t.Errorf("mimictl uninstall %v: %v\n%s", more, err, out)
		}
	}
	if _, err := os.Stat(filepath.Join(home, "var", "mimi_portability.db")); err == nil {
		t.Error("the database is still there")
	}
}

// free returns an address that nobody listens at.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "localhost:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// TestUnit: systemd understands the unit, where there is systemd.
func TestUnit(t *testing.T) {
	program := needs.Program(t, "systemd-analyze")
	out, err := exec.Command(program, "verify", "../../docs/deploy/dendrite-mimi.service").CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "is not executable") { // the program is not installed here
			t.Errorf("%s (%v)", line, err)
		}
	}
}
