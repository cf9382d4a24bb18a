package harness

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

// Run runs the tests of a package, and removes the built server command afterwards.
func Run(m *testing.M) int {
	defer RemoveBinary() // nolint: errcheck // in the temporary directory
	return m.Run()
}

// StartServers starts n servers with the default section for a test. They end with the test. A failed test shows their
// logs.
func StartServers(t testing.TB, n int) []*Server {
	t.Helper()
	network := NewTestNetwork(t)
	servers := make([]*Server, n)
	for i := range servers {
		servers[i] = network.StartServer(t, Section)
	}
	return servers
}

// TestNetwork is a Network of one test.
type TestNetwork struct{ *Network }

// NewTestNetwork makes a network that ends with the test.
func NewTestNetwork(t testing.TB) *TestNetwork {
	t.Helper()
	n, err := NewNetwork(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return &TestNetwork{n}
}

// NewPostgresNetwork is NewTestNetwork with a PostgreSQL database for each server.
func NewPostgresNetwork(t testing.TB) *TestNetwork {
	t.Helper()
	databases := pgtest.Start(t) // it ends after the network
	n := NewTestNetwork(t)
	n.Postgres = func() string { return databases.Database(t) }
	return n
}

// StartServer starts a server or fails the test. A failed test shows the server's log.
func (n *TestNetwork) StartServer(t testing.TB, section string) *Server {
	t.Helper()
	return n.started(t, func(ctx context.Context) (*Server, error) { return n.Start(ctx, section) })
}

func (n *TestNetwork) started(t testing.TB, start func(context.Context) (*Server, error)) *Server {
	t.Helper()
	s, err := start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ShowLog(t, s)
	return s
}

// ShowLog shows a server's log at the end of a failed test.
func ShowLog(t testing.TB, s *Server) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", s.Name, s.Log())
		}
	})
}

// RegisterUser makes an account or fails the test.
func RegisterUser(t testing.TB, s *Server, localpart string, admin bool) *User {
	t.Helper()
	u, err := s.Register(t.Context(), localpart, admin)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Admit calls User.Admit, and fails the test on an error.
func Admit(t testing.TB, by *User, roomID string, u *User) {
	t.Helper()
	if err := by.Admit(Within(t), roomID, u); err != nil {
		t.Fatal(err)
	}
}

// SharedRoom makes a room of the first user that all others join. All of them have power level 100.
func SharedRoom(t testing.TB, creator *User, others ...*User) (roomID string) {
	t.Helper()
	room, err := creator.CreateRoom(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range others {
		Admit(t, creator, room, u)
		if err := creator.SetPowerLevel(t.Context(), room, u.ID, 100); err != nil {
			t.Fatal(err)
		}
	}
	return room
}

// StartTestClient starts the reference client for a user. The client keeps its state across restarts, and ends with the
// test.
func StartTestClient(t testing.TB, u *User) *Client {
	t.Helper()
	store := filepath.Join(t.TempDir(), "client.json")
	return RunClient(t, u, func(ctx context.Context, u *User) (*Client, error) { return StartClient(ctx, u, store) })
}

// RunClient starts a client for a user or fails the test. The client ends with the test.
func RunClient(t testing.TB, u *User, start func(context.Context, *User) (*Client, error)) *Client {
	t.Helper()
	c, err := start(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Kill() }) // it may have ended
	return c
}

// Do calls Client.Do, and fails the test on an error.
func Do(t testing.TB, c *Client, command string, args Args, out any) {
	t.Helper()
	if err := c.Do(Within(t), command, args, out); err != nil {
		t.Fatalf("%s: %s %v: %v", c.Name, command, args, err)
	}
}

// State returns a client's view of its group, or fails the test.
func State(t testing.TB, c *Client) GroupState {
	t.Helper()
	st, err := c.State(Within(t))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// Beside calls run in the background, with a context of 4 times Patience. end waits for its result, and fails the test
// on an error.
func Beside[T any](t testing.TB, run func(context.Context) (T, error)) (end func() T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*Patience)
	t.Cleanup(cancel)
	var result T
	ended := make(chan error, 1)
	go func() {
		var err error
		result, err = run(ctx)
		ended <- err
	}()
	return func() T {
		t.Helper()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		return result
	}
}

// RequireRefused fails the test unless err is a homeserver's refusal with this code.
func RequireRefused(t testing.TB, err error, code string) {
	t.Helper()
	if CodeOf(err) != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

// RequireRule fails the test unless err is a homeserver's refusal that names this rule.
func RequireRule(t testing.TB, err error, rule string) {
	t.Helper()
	if RuleOf(err) != rule {
		t.Errorf("got %v, want the rule %q", err, rule)
	}
}

// Within returns a context of twice Patience, for an operation that should take only a moment.
func Within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*Patience)
	t.Cleanup(cancel)
	return ctx
}

// Rest waits until processes together use less than a fifth of a processor for a second.
func Rest(t testing.TB, pids ...int) {
	t.Helper()
	for before := -time.Second; ; Wait(t.Context(), time.Second) {
		var used time.Duration
		for _, pid := range pids {
			used += ProcessorTime(t, pid)
		}
		if used-before <= time.Second/5 {
			return
		}
		before = used
	}
}

// ProcessorTime returns the processor time that a process has used so far, in steps of 10 ms.
func ProcessorTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	const tick = time.Second / 100 // USER_HZ
	var user, system time.Duration
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from field 3 on
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return (user + system) * tick
}
