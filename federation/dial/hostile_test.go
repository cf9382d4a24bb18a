package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"
)

// hostile is the name of a server at a public address with a valid certificate. It leads other servers to internal
// addresses.
const hostile = "hostile.example.com"

// A trick is a set of answers of the hostile server. PORT stands for the port of the internal server.
type trick struct {
	wellKnown string // the answer to well-known requests
	redirect  string // the redirect of well-known requests
	srv       string // the target of the SRV record
	api       string // the redirect of all other requests
	works     bool   // the trick reaches the internal server when private networks are permitted
}

var tricks = map[string]trick{
	"name":                          {wellKnown: "localhost:PORT", works: true},
	"address":                       {wellKnown: "127.0.0.1:PORT", works: true},
	"another loopback address":      {wellKnown: "127.0.0.2:PORT", works: true},
	"IPv4 address as IPv6":          {wellKnown: "[::ffff:127.0.0.1]:PORT", works: true},
	"IPv6 address":                  {wellKnown: "[::1]:PORT", works: hasIPv6()},
	"unspecified address":           {wellKnown: "0.0.0.0:PORT", works: true},
	"SRV to a name":                 {srv: "localhost.", works: true},
	"SRV to an address":             {srv: "127.0.0.1", works: true},
	"SRV to nothing":                {srv: "."},
	"redirect to a name":            {redirect: "https://localhost:PORT/", works: true},
	"redirect to an address":        {redirect: "https://127.0.0.1:PORT/", works: true},
	"redirect without TLS":          {redirect: "http://localhost:PORT/"},
	"redirect of the API":           {api: "matrix://localhost:PORT/"},
	"redirect of the API, over TLS": {api: "https://127.0.0.1:PORT/"},
}

func hasIPv6() bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// No answer of a hostile server makes this one connect to an internal address (CVE-2024-52594).
func TestHostileAnswersReachNothingInternal(t *testing.T) {
	for name, tr := range tricks {
		t.Run(name, func(t *testing.T) {
			if tr.reaches(t, Allowed{}) || tr.reaches(t, Allowed{IPLiterals: true}) {
				t.Error("an internal server was reached")
			}
			if works := tr.reaches(t, Allowed{IPLiterals: true, Networks: Anywhere}); works != tr.works {
				t.Errorf("with private networks permitted: reached %v", works)
			}
		})
	}
}

// reaches reports whether a request to the hostile server leads to a connection to the internal server.
func (tr trick) reaches(t *testing.T, allowed Allowed) bool {
	t.Helper()
	internal, accepted := internalServer(t)
	transport := tr.transport(t, allowed, internal)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "matrix://"+hostile+"/_matrix/key/v2/server", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := (&http.Client{Transport: transport}).Do(r); err == nil {
		resp.Body.Close()
	}
	// the test's own connection, which shows that no other came before
	own, err := net.Dial("tcp", "localhost:"+strconv.Itoa(internal))
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	return <-accepted != own.LocalAddr().String()
}

// internalServer closes every connection, and reports the addresses of the callers.
func internalServer(t *testing.T) (tcpPort int, accepted <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	from := make(chan string, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			from <- c.RemoteAddr().String()
			c.Close()
		}
	}()
	return int(port(t, l.Addr())), from
}

// transport makes a transport for which the hostile server is at a public address.
func (tr trick) transport(t *testing.T, allowed Allowed, internal int) *Transport {
	t.Helper()
	to := func(target string) string { return strings.ReplaceAll(target, "PORT", strconv.Itoa(internal)) }
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch wellKnown := r.URL.Path == "/.well-known/matrix/server"; {
		case wellKnown && tr.redirect != "":
			w.Header().Set("Location", to(tr.redirect))
			w.WriteHeader(http.StatusFound)
		case wellKnown && tr.wellKnown != "":
			_, _ = io.WriteString(w, `{"m.server": "`+to(tr.wellKnown)+`"}`)
		case wellKnown:
			w.WriteHeader(http.StatusNotFound)
		case tr.api != "":
			w.Header().Set("Location", to(tr.api))
			w.WriteHeader(http.StatusTemporaryRedirect)
		}
	}))
	t.Cleanup(server.Close)

	transport := NewTransport(allowed, true, time.Now)
	guarded := transport.template.DialContext
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, hostile+":") {
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		}
		return guarded(ctx, network, address)
	}
	web := transport.resolver.web.Transport.(*http.Transport)
	transport.template.DialContext, web.DialContext = dial, dial
	web.TLSClientConfig = &tls.Config{RootCAs: x509.NewCertPool()}
	web.TLSClientConfig.RootCAs.AddCert(server.Certificate())
	transport.resolver.lookUpSRV = func(context.Context, string, string, string) (string, []*net.SRV, error) {
		if tr.srv == "" {
			return "", nil, &net.DNSError{IsNotFound: true}
		}
		return "", []*net.SRV{{Target: tr.srv, Port: uint16(internal)}}, nil
	}
	return transport
}
