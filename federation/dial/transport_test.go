package dial

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// echo starts a TLS server on loopback that answers with the request's body. It returns the server and its Matrix name.
func echo(t *testing.T) (s *httptest.Server, name string) {
	t.Helper()
	s = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Host+" ")
		_, _ = io.Copy(w, r.Body)
	}))
	t.Cleanup(s.Close)
	return s, strings.Replace(s.Listener.Addr().String(), "127.0.0.1", "localhost", 1)
}

func newRequest(t *testing.T, server, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(
		t.Context(), http.MethodPost, "matrix://"+server+"/path", bytes.NewReader([]byte(body)),
	)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Profile, section 7: "A server name in a request is attacker-chosen: validate it, refuse IP literals unless
// configured, dial through a guarded transport."
func TestTransportRefusesPrivateNetworks(t *testing.T) {
	_, name := echo(t)
	guarded := NewTransport(Allowed{IPLiterals: true}, true, time.Now)
	byAddress := strings.Replace(name, "localhost", "127.0.0.1", 1)
	for _, server := range []string{name, byAddress, "[::1]:1", "[::ffff:127.0.0.1]:1"} {
		if _, err := guarded.RoundTrip(newRequest(t, server, "")); !errors.Is(err, errPrivate) {
			t.Errorf("%s: %v", server, err)
		}
	}
	if _, err := guarded.resolver.wellKnown(t.Context(), name); !errors.Is(err, errPrivate) {
		t.Errorf("well-known: %v", err)
	}
}

func TestTransportClosesTheBody(t *testing.T) {
	r := newRequest(t, "127.0.0.1:8448", "hello")
	body := &closer{ReadCloser: r.Body}
	r.Body = body
	if _, err := NewTransport(Allowed{}, true, time.Now).RoundTrip(r); err == nil || !body.closed {
		t.Errorf("closed: %v, error %v", body.closed, err)
	}
}

type closer struct {
	io.ReadCloser
	closed bool
}

func (c *closer) Close() error {
	c.closed = true
	return c.ReadCloser.Close()
}

func TestTransportSends(t *testing.T) {
	_, name := echo(t)
	open := NewTransport(Allowed{Networks: Anywhere}, true, time.Now)
	resp, err := open.RoundTrip(newRequest(t, name, "hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != name+" hello" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestTransportValidatesCertificates(t *testing.T) {
	_, name := echo(t)
	strict := NewTransport(Allowed{Networks: Anywhere}, false, time.Now)
	if _, err := strict.RoundTrip(newRequest(t, name, "")); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v", err)
	}
	lenient := NewTransport(Allowed{Networks: Anywhere}, true, time.Now)
	_, err := lenient.resolver.wellKnown(t.Context(), name)
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("well-known: %v", err)
	}
}

// When the first of two addresses is dead, the second gets the whole body.
func TestTransportTriesAllAddresses(t *testing.T) {
	s, _ := echo(t)
	open := NewTransport(Allowed{Networks: Anywhere}, true, time.Now)
	open.resolver.web = &http.Client{Transport: &web{}}
	open.resolver.lookUpSRV = func(context.Context, string, string, string) (string, []*net.SRV, error) {
		return "", []*net.SRV{
			{Target: "localhost.", Port: closedPort(t)}, {Target: "localhost.", Port: port(t, s.Listener.Addr())},
		}, nil
	}
	resp, err := open.RoundTrip(newRequest(t, "s.example", "hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "s.example hello" {
		t.Errorf("got %q, %v", got, err)
	}

	once := newRequest(t, "s.example", "hello")
	once.GetBody = nil
	if _, err := open.RoundTrip(once); err == nil {
		t.Error("sent a body that was read before")
	}
	if open.resolver.cached("s.example") != nil {
		t.Error("addresses that failed are still in the cache")
	}
}

func port(t *testing.T, a net.Addr) uint16 {
	t.Helper()
	_, digits, err := net.SplitHostPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

func closedPort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return port(t, l.Addr())
}

func TestPoolsAreBounded(t *testing.T) {
	tr := NewTransport(Allowed{}, false, time.Now)
	for i := range 2 * maxTransports {
		tr.pool(strconv.Itoa(i) + ".example")
	}
	if len(tr.pools) != maxTransports {
		t.Errorf("%d pools", len(tr.pools))
	}
	if first, second := tr.pool("s.example"), tr.pool("s.example"); first != second {
		t.Error("connections are not reused")
	}
}

// TestRemedy: the error for a destination that the configuration rules out names the key that permits it, also through
// the HTTP client.
func TestRemedy(t *testing.T) {
	for server, key := range map[string]string{
		"localhost:1": "allow_networks", "127.0.0.1:1": "federation.allow_ip_literals",
	} {
		client := http.Client{Transport: NewTransport(Allowed{}, false, time.Now)}
		_, err := client.Get("matrix://" + server + "/")
		var blocked *Blocked
		if !errors.As(err, &blocked) || !strings.Contains(blocked.Remedy(), key) {
			t.Errorf("%s: %v, want %s", server, err, key)
		}
	}
}
