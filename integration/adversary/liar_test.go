package adversary

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/fclient"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// liar is the attacker's homeserver: a real homeserver behind a proxy at its name. The proxy gives the attacker's
// answers instead of the homeserver's. The attacker has the homeserver's signing key.
type liar struct {
	*harness.Server
	*fclient.SigningIdentity

	mu  sync.Mutex
	lie func(http.ResponseWriter, *http.Request) bool
}

// startLiar starts the attacker's homeserver. It is honest until a call of lies.
func startLiar(t *testing.T, n *harness.TestNetwork) *liar {
	t.Helper()
	s := n.StartServer(t, harness.Section)
	identity, err := s.Identity()
	if err != nil {
		t.Fatal(err)
	}
	l := &liar{Server: s, SigningIdentity: identity}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	behind := silent(t, new(counter))
	s.Listen = behind.Addr().String()
	behind.Close()
	l.listen(t, n)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

// listen serves at the server's name until the test ends.
func (l *liar) listen(t *testing.T, n *harness.TestNetwork) {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(n.CertFile(), n.KeyFile())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", l.Name, &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		t.Fatal(err)
	}
	honest := &httputil.ReverseProxy{
		Transport: n.Client().Transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "https", Host: l.Listen})
			r.Out.Host = r.In.Host
		},
	}
	front := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !l.answers(w, r) {
			honest.ServeHTTP(w, r)
		}
	})}
	go front.Serve(listener) // nolint: errcheck // it ends with the test
	t.Cleanup(func() { front.Close() })
}

func (l *liar) answers(w http.ResponseWriter, r *http.Request) bool {
	l.mu.Lock()
	lie := l.lie
	l.mu.Unlock()
	return lie != nil && lie(w, r)
}

// lies gives each request to lie first, until the test ends. The homeserver serves a request if lie returns false.
func (l *liar) lies(t *testing.T, lie func(http.ResponseWriter, *http.Request) bool) {
	l.set(lie)
	t.Cleanup(func() { l.set(nil) })
}

func (l *liar) set(lie func(http.ResponseWriter, *http.Request) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lie = lie
}

// silent returns a listener that accepts connections, counts them, and never sends anything.
func silent(t *testing.T, dialled *counter) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "localhost:0") // nolint: noctx // on loopback
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			dialled.Add(1)
			defer conn.Close()
		}
	}()
	return listener
}
