package harness

import (
	"context"
	"testing"
)

// Run is testing.M.Run with the built command removed after it.
func Run(m *testing.M) int {
	defer RemoveBinary() // nolint: errcheck // in the temporary directory
	return m.Run()
}

// StartServers gives a test n servers with the default section, which end with it. When the test fails, their logs are shown.
func StartServers(t *testing.T, n int) []*Server {
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
func NewTestNetwork(t *testing.T) *TestNetwork {
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

// StartServer starts a server or fails the test.
func (n *TestNetwork) StartServer(t *testing.T, section string) *Server {
	t.Helper()
	s, err := n.Start(t.Context(), section)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", s.Name, s.Log())
		}
	})
	return s
}

// RegisterUser makes an account or fails the test.
func RegisterUser(t *testing.T, s *Server, localpart string, admin bool) *User {
	t.Helper()
	u, err := s.Register(t.Context(), localpart, admin)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Within is a context for what should take a moment, with the harness's patience.
func Within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	t.Cleanup(cancel)
	return ctx
}
