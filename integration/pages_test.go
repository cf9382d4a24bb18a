package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
	"github.com/matrix-org/dendrite/contrib/mimi/internal/needs"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

// toolFolder returns the folder of mimictl.
func toolFolder(t testing.TB) string {
	t.Helper()
	path, err := harness.Tool()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(path)
}

// operatorShell is the shell of an administrator, in the folder of the server's files.
func operatorShell(t *testing.T, admin *harness.User) *shell {
	t.Helper()
	needs.Program(t, "curl")
	needs.Program(t, "jq")
	s := admin.Server
	const local = "http://localhost:8008"
	return &shell{
		dir: s.Dir,
		env: map[string]string{"API": s.URL + adminapi.PathPrefix, "ADMIN": admin.Token},
		replace: []string{local, s.URL, "MIMICTL_TOKEN=…", "MIMICTL_TOKEN=" + admin.Token, "/srv/", t.TempDir() + "/",
			"/backup/", t.TempDir() + "/", " … ", " "},
	}
}

// functionsOf returns the shell functions that the operator's guide defines for its later commands.
func functionsOf(t *testing.T) (lines []string) {
	t.Helper()
	for _, section := range commandsOf(t, operator).blocks {
		for _, line := range section {
			if strings.Contains(line, "() { ") {
				lines = append(lines, line)
			}
		}
	}
	if len(lines) != 2 {
		t.Fatalf("the guide defines %q, not get and put", lines)
	}
	return lines
}

// TestOperatorPage: an operator follows the guide: switches the module on, looks inside, sets the policy, drains the
// server, serves its redirects in its place, and removes what the module has stored.
func TestOperatorPage(t *testing.T) {
	c := newPages(t)
	m := newMovers(t)
	d := &drained{movers: m, tool: newTool(t, m.a), groups: map[string]*moving{}, moved: map[string]bool{},
		slots: make(chan struct{}, 8)}
	room := harness.SharedRoom(t, m.alice, m.bob)
	moved := m.newGroup(t, room, 2)
	moved.prepare(t)
	if err := moved.move(harness.Within(t)); err != nil {
		t.Fatal(err)
	}
	groups := []*moving{d.add(t, room), d.add(t, room)}
	s := operatorShell(t, d.tool.admin)
	s.env["GROUP"], s.env["MIGRATION"] = mimiport.IDText(groups[0].mls.ID()), d.tool.migration(t)
	s.replace = append(s.replace, "b.example,c.example", m.b.Name+",localhost:1")

	if out := s.run(t, c.block(operator, "Switch on")...); !strings.HasPrefix(out, "true\n") {
		t.Errorf("the module is not on: %s", out)
	}
	s.run(t, c.block(readme, "Permission to move groups")...)
	s.run(t, append([]string{"export GOBIN=" + t.TempDir(), "cd " + root(t), c.sentence("go install ./cmd/mimictl"),
		"PATH=$GOBIN:$PATH"}, c.block(operator, "The tool")...)...)
	s.run(t, c.block(operator, "Policy and quotas")...)
	out := s.run(t, c.block(operator, "Look inside")...)
	for _, want := range []string{s.env["GROUP"], s.env["MIGRATION"], `"total":2`} {
		if !strings.Contains(out, want) {
			t.Errorf("the answers lack %s: %s", want, out)
		}
	}
	s.run(t, append(functionsOf(t), c.sentence(`put '{"accept_drain": ["a.example"]}'`),
		c.sentence(`put '{"preset": "section"}'`), c.sentence("get '/migrations?state=staged'"),
		c.sentence("get /status | jq .policy"), c.sentence(`curl -X POST … "$API/groups/$GROUP/removals"`))...)
	drop := strings.NewReplacer("DELETE", "curl -X DELETE", "…", s.env["MIGRATION"]).Replace(
		c.sentence("DELETE $API/migrations/…"))
	if _, err := s.try(t, drop); err == nil || !strings.Contains(err.Error(), "is the migration's source") {
		t.Errorf("a source drops its migration: %v", err)
	}
	d.drainBy(t, s, c)
	d.replaceBy(t, s, c)
}

// root returns the folder of the repository.
func root(t *testing.T) string {
	t.Helper()
	folder, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

// drainBy drains the server by the commands of the guide, while bob moves what he is asked to move.
func (d *drained) drainBy(t *testing.T, s *shell, c *pages) {
	t.Helper()
	s.env["MIMICTL_SERVER"], s.env["MIMICTL_TOKEN"] = d.a.URL, d.tool.admin.Token
	commands := c.block(operator, "Drain a server")
	dry := slices.IndexFunc(commands, func(line string) bool { return strings.Contains(line, "-dry-run") })
	if out := s.run(t, commands[dry]); !strings.Contains(out, "2 of 2 groups can move") {
		t.Errorf("the dry run says: %s", out)
	}
	end := harness.Beside(t, func(ctx context.Context) (string, error) {
		return s.output(s.command(ctx, t, slices.Delete(commands, dry, dry+1)...))
	})
	d.moveUntil(t, len(d.groups))
	if out, want := end(), fmt.Sprintf("moved to %s: 2 groups", d.b.Name); strings.Count(out, want) != 2 {
		t.Errorf("status -follow and report do not both say %q: %s", want, out)
	}
}

// replaceBy puts the static service of the guide into the place of the server, and removes what the module has stored.
func (d *drained) replaceBy(t *testing.T, s *shell, c *pages) {
	t.Helper()
	awaitDelivered(t, d.tool)
	if out := s.run(t, append(functionsOf(t), c.sentence("get /status | jq .outbox"))...); out != "[]\n" {
		t.Errorf("the outbox has %s", out)
	}
	commands := c.block(operator, "Switch the homeserver off")
	last := len(commands) - 1
	s.run(t, commands[:last]...)
	if err := d.a.Stop(); err != nil {
		t.Fatal(err)
	}
	s.replace = append(s.replace, "-listen :8448", "-listen "+d.a.Name, "chain.pem", d.network.CertFile(),
		" key.pem", " "+d.network.KeyFile(),
		"redirects serve", "redirects serve -allow-private-networks -ca "+d.network.CertFile())
	d.tool.serve(t, d.network, s.command(context.WithoutCancel(t.Context()), t, "exec "+commands[last]))
	out := s.run(t, c.block(operator, "Remove")...)
	if _, err := os.Stat(filepath.Join(d.a.Dir, "mimi_portability.db")); err == nil {
		t.Errorf("the database is still there: %s", out)
	}
}

// TestOperatorPageOnClaims: a group has moved away, and its new host is lost. The operator of the former host takes the
// group back by the commands of the guide. The new host is there again, and its operator yields. Then this operator
// recovers another group from a member's export, although its host answers.
func TestOperatorPageOnClaims(t *testing.T) {
	c := newPages(t)
	p := newPair(t)
	a, b := p.alice.User.Server, p.bob.User.Server
	here := operatorShell(t, harness.RegisterUser(t, a, "admin", true))
	there := operatorShell(t, harness.RegisterUser(t, b, "admin", true))
	here.env["GROUP"], there.env["GROUP"] = p.Group, p.Group
	p.Move(t, p.bob, b)

	reclaim := c.sentence(`curl -X POST $API/groups/$GROUP/reclaim -d '{"target_is_lost": true}'`)
	if _, err := here.try(t, reclaim); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("the target answers: %v", err)
	}
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	here.run(t, reclaim)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var host api.HostResponse
	harness.Do(t, p.alice, "host", harness.Args{"ds": a.Name}, &host)
	route := at(b.Name, "/groups/"+p.Group+"/lineage")
	_ = p.bob.User.Do(harness.Within(t), http.MethodPut, route, api.LineageRequest{Lineage: host.Lineage}, nil)

	there.run(t, append(functionsOf(t), c.block(operator, "When another server claims a group")...)...)
	if out := there.run(t, "curl $API/groups/$GROUP"); !strings.Contains(out, `"state":"moved"`) {
		t.Errorf("the server has not yielded: %s", out)
	}

	other := party.Gather(t, harness.RegisterUser(t, a, "carol", false), harness.RegisterUser(t, b, "dave", false))
	there.env["GROUP"] = other.Group
	there.run(t, append(functionsOf(t), c.sentence(`put '{"recover": true}'`))...)
	var held adminapi.RecoverRequest
	harness.Do(t, other.Members[1], "export", nil, &held)
	held.HostIsLost, held.AlthoughItAnswers = true, true
	export, err := json.Marshal(held)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "export.json")
	if err := os.WriteFile(file, export, 0o600); err != nil {
		t.Fatal(err)
	}
	there.run(t, "curl -X "+c.sentence("POST $API/groups/$GROUP/recover")+" -d @"+file)
}

// TestBackupPage: an operator backs a server up, loses its database, restores it, and changes the engine, by the
// commands of the page. The group goes on.
func TestBackupPage(t *testing.T) {
	c := newPages(t)
	needs.Program(t, "sqlite3")
	needs.Program(t, "pg_dump")
	databases := pgtest.Start(t)
	m := newMovers(t)
	g := m.newGroup(t, harness.SharedRoom(t, m.alice, m.bob), 2)
	s := operatorShell(t, harness.RegisterUser(t, m.a, "operator", true))
	copied, restored := databases.Database(t), databases.Database(t)
	s.replace = append(s.replace, "postgres://dendrite@localhost/mimi", copied,
		"postgres://dendrite@localhost/dendrite", copied, "--dbname=…", "--dbname='"+restored+"'",
		"'mimiport_*' …", "'mimiport_*' '"+copied+"'",
		"-peers matrix_key.pem", "-peers matrix_key.pem -allow-private-networks -ca "+m.network.CertFile())

	var dump string
	for _, line := range c.block(backup, "Take one") {
		switch {
		case strings.HasPrefix(line, "pg_dump"):
			dump = line
			continue
		case strings.HasPrefix(line, "sqlite3"): // one or the other
			line = "rm -f /backup/mimi_portability.db; " + line + "; test -s /backup/mimi_portability.db"
		}
		s.run(t, line)
	}
	s.run(t, c.sentence(`sqlite3 mimi_portability.db ".backup copy.db"`), "test -s copy.db")

	if err := m.a.Kill(); err != nil {
		t.Fatal(err)
	}
	s.run(t, "mkdir kept", "mv mimi_portability.db* kept")
	s.run(t, c.block(backup, "Restore one")...)
	s.run(t, c.sentence("mimictl fsck -db file:mimi_portability.db -peers matrix_key.pem"))
	s.run(t, fmt.Sprintf("sqlite3 copy.db %q", c.sentence("DELETE FROM mimiport_settings WHERE name = 'heartbeat'")))
	s.run(t, c.sentence(`sqlite3 mimi_portability.db "PRAGMA auto_vacuum = 2; VACUUM"`))
	if err := m.a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(g.submit(harness.Within(t), g.commit(g.at, nil)), m.a.Stop()); err != nil {
		t.Fatal(err)
	}
	s.run(t, c.block(backup, "Change the engine")...)
	s.run(t, dump, c.sentence("pg_restore --dbname=… /backup/dendrite.dump"))
	s.run(t, c.sentence("pg_dump --table='mimiport_*' …")+" | grep mimiport_groups")
}
