package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// tool is mimictl for the operator of a server.
type tool struct {
	path   string
	server *harness.Server
	admin  *harness.User
}

// newTool makes a tool with an administrator of a server.
func newTool(t *testing.T, s *harness.Server) *tool {
	t.Helper()
	path, err := harness.Tool()
	if err != nil {
		t.Fatal(err)
	}
	return &tool{path, s, harness.RegisterUser(t, s, "operator", true)}
}

func (m *tool) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, m.path, args...)
	cmd.Env = append(os.Environ(), "MIMICTL_SERVER="+m.server.URL, "MIMICTL_TOKEN="+m.admin.Token)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs a command, and fails the test if it fails.
func (m *tool) run(t *testing.T, args ...string) (output string) {
	t.Helper()
	out, err := m.command(harness.Within(t), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("mimictl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// serveRedirects serves an export in the place of the tool's server until the test ends.
func (m *tool) serveRedirects(t *testing.T, n *harness.TestNetwork, directory string) {
	t.Helper()
	m.serve(t, n, m.command(context.WithoutCancel(t.Context()), "redirects", "serve", "-listen", m.server.Name,
		"-tls-cert", n.CertFile(), "-tls-key", n.KeyFile(), "-ca", n.CertFile(), "-allow-private-networks", directory))
}

// serve runs a command that serves redirects in the place of the tool's server until the test ends.
func (m *tool) serve(t *testing.T, n *harness.TestNetwork, cmd *exec.Cmd) {
	t.Helper()
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
			t.Errorf("mimictl redirects serve: %v\n%s", err, &log)
		}
	})
	version := fmt.Sprintf("https://%s/_matrix/federation/v1/version", m.server.Name)
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, version, nil)
		if err != nil {
			return err
		}
		resp, err := n.Client().Do(r)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// stored is a client that can stop and go on.
type stored struct {
	user *harness.User
	file string
}

func (c *stored) start(t *testing.T) *harness.Client {
	t.Helper()
	return harness.RunClient(t, c.user, func(ctx context.Context, u *harness.User) (*harness.Client, error) {
		return harness.StartClient(ctx, u, c.file)
	})
}

// TestRedirectsLiveOn: two members are away, one of them on a homeserver without the module. Meanwhile the group moves
// away from its host. The host's operator exports the redirects, and stops the homeserver for good. A static service in
// its place gives the very answers that the homeserver gave. Both members read what they have missed there, and follow.
func TestRedirectsLiveOn(t *testing.T) {
	n := harness.NewTestNetwork(t)
	a, b := n.StartServer(t, harness.Section), n.StartServer(t, harness.Section)
	c, stock := n.StartServer(t, harness.Section), n.StartServer(t, "")
	p := newPairAt(t, a, b)
	away := []*stored{
		{user: harness.RegisterUser(t, c, "dave", false)}, {user: harness.RegisterUser(t, stock, "erin", false)},
	}
	for _, m := range away {
		m.file = filepath.Join(t.TempDir(), "client.json")
		harness.Admit(t, p.alice.User, p.Room, m.user)
		if err := p.Add(harness.Within(t), m.start(t)); err != nil {
			t.Fatal(err)
		}
	}
	p.Talk(t)
	for _, m := range p.Members[2:] {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	p.Members = p.Members[:2]
	missed := strings.Repeat("long ", 10<<10) // no event has it: members read it from the log
	if err := p.SayText(harness.Within(t), p.alice, missed); err != nil {
		t.Fatal(err)
	}
	p.Move(t, p.bob, b)
	p.RequireAt(t, b, 1)
	operator := newTool(t, a)
	awaitDelivered(t, operator)

	requests := redirectRequests(p.Group, operator.migration(t), p.bob.User, away[0].user)
	before := make([]string, len(requests))
	for i, q := range requests {
		before[i] = q.ask(t, n, a)
	}
	directory := filepath.Join(t.TempDir(), "redirects")
	operator.run(t, "redirects", "export", "-db", a.Store(), "-key", a.SigningKeyFile(), directory)
	if err := a.Kill(); err != nil {
		t.Fatal(err)
	}
	operator.serveRedirects(t, n, directory)
	for i, q := range requests {
		if diff := cmp.Diff(before[i], q.ask(t, n, a)); diff != "" {
			t.Errorf("%s %s:\n%s", q.method, q.uri, diff)
		}
	}

	for _, m := range away {
		back := m.start(t)
		harness.Do(t, back, "sync", nil, nil)
		harness.Do(t, back, "wait_for", harness.Args{"kind": "message", "text": missed}, nil)
		p.Members = append(p.Members, back)
	}
	p.Members = p.Members[1:] // alice's homeserver has ended
	p.RequireAt(t, b, 1)
	p.Talk(t)
}

// awaitDelivered waits until a server has no work left.
func awaitDelivered(t *testing.T, m *tool) {
	t.Helper()
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
		var status api.Status
		err := m.admin.Do(ctx, http.MethodGet, "/_dendrite/admin/mimiport/status", nil, &status)
		if err == nil && len(status.Outbox) > 0 {
			err = fmt.Errorf("work is left: %+v", status.Outbox)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// migration returns the id of the only migration of a server.
func (m *tool) migration(t *testing.T) string {
	t.Helper()
	var list struct {
		Items []api.MigrationStatus `json:"items"`
	}
	err := m.admin.Do(harness.Within(t), http.MethodGet, "/_dendrite/admin/mimiport/migrations", nil, &list)
	if err != nil || len(list.Items) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	return list.Items[0].MigrationID
}

// redirectRequest is a request to the former host of a group. Its URI is below federation.PathPrefix.
type redirectRequest struct {
	origin      *harness.Server
	method, uri string
	content     any
}

// redirectRequests are requests by which members and their servers follow a group, and the same of a user who may not.
func redirectRequests(group, move string, members ...*harness.User) (all []redirectRequest) {
	for _, m := range members {
		for _, user := range []string{m.ID, "@nobody:" + m.Server.Name, "@alice:elsewhere.example", ""} {
			by := url.Values{}
			if user != "" {
				by.Set("user_id", user)
			}
			add := func(method, path, more string, content any) {
				all = append(all, redirectRequest{m.Server, method, path + "?" + by.Encode() + more, content})
			}
			at := "/groups/" + group
			add(http.MethodGet, at, "", nil)
			add(http.MethodGet, at+"/host", "", nil)
			add(http.MethodGet, at+"/messages", "&from=1", nil)
			add(http.MethodGet, at+"/messages", "&term=0&from=3", nil)
			add(http.MethodGet, at+"/messages", "&term=1", nil)
			add(http.MethodGet, at+"/tree", "&epoch=1", nil)
			add(http.MethodGet, at+"/drift", "", nil)
			add(http.MethodPost, at+"/messages", "", api.SubmitRequest{Message: []byte{1}})
			add(http.MethodPost, at+"/reports", "", api.ReportRequest{Seq: 1})
			add(http.MethodDelete, at, "", nil)
			add(http.MethodGet, "/groups/AAAA", "", nil)
			add(http.MethodGet, "/migrations/"+move, "", nil)
			add(http.MethodGet, "/migrations/"+strings.Repeat("A", 43), "", nil)
		}
	}
	return all
}

// ask sends the request, and returns the status and the body.
func (q *redirectRequest) ask(t *testing.T, n *harness.TestNetwork, to *harness.Server) string {
	t.Helper()
	identity, err := q.origin.Identity()
	if err != nil {
		t.Fatal(err)
	}
	r, err := to.FederationRequest(harness.Within(t), identity, q.method, federation.PathPrefix+q.uri, q.content)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := n.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s %s", resp.StatusCode, resp.Header.Get("Content-Type"), body)
}
