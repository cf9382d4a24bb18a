package integration

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// place is a section of a document.
type place struct{ document, heading string }

const (
	readme   = "README.md"
	operator = "docs/operator.md"
	backup   = "docs/backup.md"
	scaling  = "docs/scaling.md"
)

// blocks says which test runs the blocks of shell commands in each section: all of their lines, but those in commands.
var blocks = map[place]string{
	{readme, "MIMI Portability for Dendrite"}:        "TestMakeTargets",
	{readme, "Permission to move groups"}:            "TestOperatorPage",
	{operator, "Switch on"}:                          "TestOperatorPage",
	{operator, "The tool"}:                           "TestOperatorPage",
	{operator, "Policy and quotas"}:                  "TestOperatorPage",
	{operator, "Look inside"}:                        "TestOperatorPage",
	{operator, "Drain a server"}:                     "TestOperatorPage",
	{operator, "Switch the homeserver off"}:          "TestOperatorPage",
	{operator, "When another server claims a group"}: "TestOperatorPageOnClaims",
	{operator, "Remove"}:                             "TestOperatorPage",
	{backup, "Take one"}:                             "TestBackupPage",
	{backup, "Restore one"}:                          "TestBackupPage",
	{backup, "Change the engine"}:                    "TestBackupPage",
}

// commands says which test runs each command that stands in a sentence, and each line of a block that the section's
// test leaves out. A text in brackets is the reason why no test runs the command.
var commands = map[string]string{
	"make demo STOCK=synapse":    "TestMakeTargets",
	"make demo-web":              "TestMakeTargets",
	"make build":                 "TestMakeTargets",
	"make release":               "TestMakeTargets",
	"make bench":                 "TestMakeTargets",
	"make soak":                  "TestMakeTargets",
	"make HOST=element-hq build": "(it writes a second tree: make HOST=element-hq test does all of it)",

	"make bench BENCH='Vanish|Pooler'":                                                   "TestMakeTargets",
	"go test -run '^$' -bench 'BenchmarkCommit$' -benchtime 300x ./mimiport/delivery":    "TestGoTests",
	"go test -run '^$' -bench BenchmarkForget -benchtime 1x ./storage/internal/sqlstore": "TestGoTests",
	"go test -v -run TestDatabaseVanishes ./integration":                                 "TestGoTests",
	"MIMI_SOAK=1 go test -v -run '^TestMoves$' ./integration":                            "TestGoTests",
	"MIMI_SOAK=1 go test -v -run '^TestMoves$/^small$' ./integration":                    "TestGoTests",
	"MIMI_SOAK=1 go test -v -run TestDay ./integration/kill":                             "TestGoTests",
	"MIMI_SOAK=1 go test -v -run TestNATSServerLost ./integration/kill":                  "TestGoTests",

	"nats stream edit --replicas 3 STREAM": "(TestNATSServerLost does it by the library)",
	"nats stream report":                   "(the same)",

	"go install ./cmd/mimictl":                     "TestOperatorPage",
	"get /status | jq .policy":                     "TestOperatorPage",
	"get /status | jq .outbox":                     "TestOperatorPage",
	"get '/migrations?state=staged'":               "TestOperatorPage",
	`put '{"preset": "section"}'`:                  "TestOperatorPage",
	`put '{"accept_drain": ["a.example"]}'`:        "TestOperatorPage",
	"DELETE $API/migrations/…":                     "TestOperatorPage",
	`curl -X POST … "$API/groups/$GROUP/removals"`: "TestOperatorPage",

	`put '{"recover": true}'`:                                               "TestOperatorPageOnClaims",
	"POST $API/groups/$GROUP/recover":                                       "TestOperatorPageOnClaims",
	`curl -X POST $API/groups/$GROUP/reclaim -d '{"target_is_lost": true}'`: "TestOperatorPageOnClaims",

	"DELETE FROM mimiport_settings WHERE name = 'heartbeat'":          "TestBackupPage",
	`sqlite3 mimi_portability.db ".backup copy.db"`:                   "TestBackupPage",
	`sqlite3 mimi_portability.db "PRAGMA auto_vacuum = 2; VACUUM"`:    "TestBackupPage",
	"mimictl fsck -db file:mimi_portability.db -peers matrix_key.pem": "TestBackupPage",
	"pg_dump --table='mimiport_*' …":                                  "TestBackupPage",
	"pg_restore --dbname=… /backup/dendrite.dump":                     "TestBackupPage",
}

var (
	heading   = regexp.MustCompile(`^#+ (.*)$`)
	span      = regexp.MustCompile("``(.+?)``|`([^`]+)`")
	comment   = regexp.MustCompile(`\s+# .*$`)
	isCommand = regexp.MustCompile(`^([A-Z_]+=\S+ )*(make|go|mimictl|curl|get|put|sqlite3|pg_\w+|psql|nats|systemctl|` +
		`docker|npm|npx|DELETE FROM|(GET|PUT|POST|DELETE) \$API\S*) `)
	isName = regexp.MustCompile(`^mimictl( [a-z]+)+$`)
)

// found has the commands of a document: the lines of its blocks by section, and the commands in its sentences.
type found struct {
	blocks    map[string][]string
	sentences []string
}

// commandsOf reads a document.
func commandsOf(t *testing.T, document string) *found {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(document)))
	if err != nil {
		t.Fatal(err)
	}
	f := &found{blocks: make(map[string][]string)}
	var section, fence string
	var prose strings.Builder
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch language, isFence := strings.CutPrefix(line, "```"); {
		case isFence && fence == "":
			if fence = line; !slices.Contains([]string{"sh", "yaml", ""}, language) {
				t.Errorf("%s has a block of %s: shell commands are sh", document, language)
			}
		case isFence:
			fence = ""
		case fence == "```sh" && line != "":
			f.blocks[section] = append(f.blocks[section], line)
		case fence == "":
			if h := heading.FindStringSubmatch(line); h != nil {
				section = h[1]
			}
			prose.WriteString(line + "\n")
		}
	}
	for _, quoted := range span.FindAllStringSubmatch(prose.String(), -1) {
		code := strings.Join(strings.Fields(strings.ReplaceAll(quoted[1]+quoted[2], `\|`, "|")), " ")
		if isCommand.MatchString(code+" ") && strings.Contains(code, " ") {
			f.sentences = append(f.sentences, code)
		}
	}
	return f
}

// TestDocumentedCommands: each command in the documents has a test that runs it, or a reason why none does. The tests
// take the commands from the documents. So a new line in a section is run by the section's test, and a new section or a
// new command in a sentence fails here.
func TestDocumentedCommands(t *testing.T) {
	tests := testsHere(t)
	left, unseen := maps.Clone(blocks), maps.Clone(commands)
	for _, document := range []string{readme, operator, backup, scaling} {
		f := commandsOf(t, document)
		for section, lines := range f.blocks {
			at := place{document, section}
			if !tests[blocks[at]] {
				t.Errorf("%s: no test runs the commands under %q", document, section)
			}
			delete(left, at)
			for _, line := range lines {
				delete(unseen, comment.ReplaceAllString(line, ""))
			}
		}
		for _, code := range f.sentences {
			how, known := commands[code]
			if !isName.MatchString(code) && (!known || !strings.HasPrefix(how, "(") && !tests[how]) {
				t.Errorf("%s: no test runs %s", document, code)
			}
			delete(unseen, code)
		}
	}
	if len(left)+len(unseen) > 0 {
		t.Errorf("no document has %v %v", left, slices.Collect(maps.Keys(unseen)))
	}
}

// testsHere returns the names of the tests of this package.
func testsHere(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	for _, name := range functions(t, ".") {
		names[name] = true
	}
	return names
}

// functions returns the names of the functions in the tests of a package.
func functions(t *testing.T, folder string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range regexp.MustCompile(`(?m)^func (\w+)\(`).FindAllSubmatch(text, -1) {
			names = append(names, string(f[1]))
		}
	}
	return names
}

// pages hands the commands of the documents to the test that must run them.
type pages struct {
	t     *testing.T
	taken map[any]bool // a place or a command
}

// newPages makes pages. At its end, a test must have taken all that blocks and commands say it runs.
func newPages(t *testing.T) *pages {
	p := &pages{t, make(map[any]bool)}
	t.Cleanup(func() {
		for at, test := range blocks {
			if test == t.Name() && !p.taken[at] && !t.Failed() && !t.Skipped() {
				t.Errorf("the test does not run the commands of %s, %q", at.document, at.heading)
			}
		}
		for _, command := range p.owned() {
			if !p.taken[command] && !t.Failed() && !t.Skipped() {
				t.Errorf("the test does not run %s", command)
			}
		}
	})
	return p
}

// block returns the lines of a section's blocks, without those in commands.
func (p *pages) block(document, section string) (lines []string) {
	p.t.Helper()
	at := place{document, section}
	if blocks[at] != p.t.Name() {
		p.t.Fatalf("blocks does not say that this test runs %s, %q", document, section)
	}
	p.taken[at] = true
	for _, line := range commandsOf(p.t, document).blocks[section] {
		if _, apart := commands[comment.ReplaceAllString(line, "")]; !apart {
			lines = append(lines, line)
		}
	}
	return lines
}

// sentence returns a command that stands in a sentence.
func (p *pages) sentence(command string) string {
	p.t.Helper()
	if commands[command] != p.t.Name() {
		p.t.Fatalf("commands does not say that this test runs %s", command)
	}
	p.taken[command] = true
	return command
}

// owned returns the commands that the test must run.
func (p *pages) owned() (all []string) {
	for command, test := range commands {
		if test == p.t.Name() {
			all = append(all, command)
		}
	}
	return slices.Sorted(slices.Values(all))
}

// TestMakeTargets: make has the targets that the documents name. With MIMI_SOAK=1 the demos and the build run.
func TestMakeTargets(t *testing.T) {
	run := func(command string) {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", command)
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
	p := newPages(t)
	for _, command := range p.owned() {
		run(strings.Replace(p.sentence(command), "make ", "make -n ", 1))
	}
	for _, command := range p.block(readme, "MIMI Portability for Dendrite") {
		run(strings.Replace(command, "make ", "make -n ", 1))
	}
	if os.Getenv("MIMI_SOAK") != "" {
		run("make build demo")
		run("make demo PROTOCOL=draft09")
	}
}

// TestGoTests: the tests and benchmarks that the documents name exist. make test, make bench and make soak run them.
func TestGoTests(t *testing.T) {
	p := newPages(t)
	for _, command := range p.owned() {
		asked := regexp.MustCompile(`-(?:run|bench) '?([^' ]*)'?`).FindAllStringSubmatch(p.sentence(command), -1)
		pattern, _, _ := strings.Cut(asked[len(asked)-1][1], "/")
		folder := command[strings.LastIndex(command, " ./")+1:]
		if !slices.ContainsFunc(functions(t, filepath.Join("..", folder)), regexp.MustCompile(pattern).MatchString) {
			t.Errorf("%s: there is no such test", command)
		}
	}
}

// TestNamedCommands: mimictl knows the commands that the documents name without arguments, and has help for each.
func TestNamedCommands(t *testing.T) {
	for _, document := range []string{readme, operator, backup, scaling} {
		for _, code := range commandsOf(t, document).sentences {
			if isName.MatchString(code) {
				m := &shell{dir: t.TempDir()}
				m.run(t, code+" --help")
			}
		}
	}
}

// shell runs commands of documents as an operator types them.
type shell struct {
	dir     string            // where they run
	env     map[string]string // besides the test's
	replace []string          // pairs: a text of the documents, and the text for it here
}

// prelude makes a command fail that curl or a pipe would let succeed. Where a document leaves the token out, curl has
// it.
const prelude = `set -euo pipefail
curl() { command curl --fail-with-body --silent --show-error --oauth2-bearer "$ADMIN" "$@"; }
`

// command returns a script of commands.
func (s *shell) command(ctx context.Context, t testing.TB, lines ...string) *exec.Cmd {
	t.Helper()
	script := prelude + strings.Join(lines, "\n") + "\n"
	cmd := exec.CommandContext(ctx, "bash", "-c", strings.NewReplacer(s.replace...).Replace(script))
	cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "PATH="+toolFolder(t)+":"+os.Getenv("PATH"))
	for name, value := range s.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// run runs commands and fails the test if one fails.
func (s *shell) run(t testing.TB, lines ...string) (output string) {
	t.Helper()
	out, err := s.try(t, lines...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// try runs commands. The error has their output.
func (s *shell) try(t testing.TB, lines ...string) (output string, err error) {
	t.Helper()
	return s.output(s.command(t.Context(), t, lines...))
}

func (*shell) output(cmd *exec.Cmd) (output string, err error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s\n%w\n%s", cmd.Args[2], err, bytes.TrimSpace(out))
	}
	return string(out), err
}
