package dial

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

func TestIsPublic(t *testing.T) {
	for address, want := range map[string]bool{
		"1.1.1.1": true, "2606:4700:4700::1111": true, "172.15.0.1": true, "100.128.0.1": true, "223.255.255.1": true,
		"0.0.0.0": false, "0.1.2.3": false, "127.0.0.1": false, "127.1.2.3": false, "10.0.0.1": false, "172.16.0.1": false,
		"192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false, "198.18.0.1": false, "192.0.2.1": false,
		"224.0.0.1": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "fe80::1": false, "fc00::1": false, "fd12::1": false, "ff02::1": false,
		"2001:db8::1":      false,
		"::ffff:127.0.0.1": false, "::127.0.0.1": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false, "2001::1": false,
	} {
		if got := isPublic(netip.MustParseAddr(address).Unmap()); got != want {
			t.Errorf("%s is public: %v", address, got)
		}
	}
}

// TestNetworks: a denied network is refused first, then one that is not allowed. An address that is not public needs a
// network that names it.
func TestNetworks(t *testing.T) {
	parse := func(texts ...string) []netip.Prefix {
		networks, err := ParseNetworks(texts)
		if err != nil {
			t.Fatal(err)
		}
		return networks
	}
	lan := parse("192.168.1.5/32", "fe80::/64")
	public := "1.1.1.1:8448"
	for _, test := range []struct {
		name      string
		networks  Networks
		permitted []string
		refused   map[string]error
	}{
		{"by default", Networks{}, []string{public, "[2606:4700:4700::1111]:1"},
			map[string]error{"192.168.1.5:1": errPrivate, "127.0.0.1:1": errPrivate, "[::ffff:127.0.0.1]:1": errPrivate}},
		{"one peer on the LAN", Networks{Private: lan},
			[]string{public, "192.168.1.5:1", "[::ffff:192.168.1.5]:1", "[fe80::7%eth0]:1"},
			map[string]error{"192.168.1.6:1": errPrivate, "127.0.0.1:1": errPrivate}},
		{"the LAN alone", Networks{Allow: lan, Private: lan}, []string{"192.168.1.5:1"},
			map[string]error{public: errDenied, "127.0.0.1:1": errDenied}},
		{"all but one", Networks{Deny: parse("1.1.1.0/24", "fe80::/10"), Private: lan}, []string{"192.168.1.5:1"},
			map[string]error{public: errDenied, "[::ffff:1.1.1.1]:1": errDenied, "[fe80::7%eth0]:1": errDenied}},
		{"nothing", Networks{Allow: parse()}, nil, map[string]error{public: errDenied}},
		{"anywhere", Anywhere, []string{public, "127.0.0.1:1", "[::1]:1", "0.0.0.0:1"}, nil},
	} {
		for _, address := range test.permitted {
			if err := test.networks.require(address); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
		}
		for address, want := range test.refused {
			if err := test.networks.require(address); !errors.Is(err, want) {
				t.Errorf("%s: %s: got %v, want %v", test.name, address, err, want)
			}
		}
	}
	for _, text := range []string{"", "1.1.1.1", "1.1.1.1/33", "::ffff:10.0.0.0/104", "fe80::%eth0/64", "localhost"} {
		if _, err := ParseNetworks([]string{text}); err == nil {
			t.Errorf("%q is a network", text)
		}
	}
}

// web answers well-known requests. For an unknown server it answers 404.
type web struct {
	answers map[string]string
	asked   int
}

func (w *web) RoundTrip(r *http.Request) (*http.Response, error) {
	w.asked++
	status, body := http.StatusOK, w.answers[r.URL.Host]
	if body == "" {
		status = http.StatusNotFound
	}
	if r.URL.Scheme != "https" || r.URL.Path != "/.well-known/matrix/server" {
		return nil, errors.New("not a well-known request")
	}
	answer := io.NopCloser(strings.NewReader(body))
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Body: answer}, nil
}

func testResolver(w *web, srv map[string][]*net.SRV) *resolver {
	return &resolver{
		web: &http.Client{Transport: w},
		lookUpSRV: func(_ context.Context, service, _, name string) (string, []*net.SRV, error) {
			records := srv[service+" "+name]
			if records == nil {
				return "", nil, &net.DNSError{IsNotFound: true}
			}
			return "", records, nil
		},
		now: time.Now,
	}
}

// Matrix server-server API, "Resolving server names", steps 1 to 6.
func TestResolve(t *testing.T) {
	w := &web{answers: map[string]string{
		"delegates.example":      `{"m.server": "host.example:1234"}`,
		"to-srv.example":         `{"m.server": "srv.example"}`,
		"to-address.example":     `{"m.server": "192.0.2.1"}`,
		"to-nonsense.example":    `{"m.server": "not a name"}`,
		"empty.example":          `{}`,
		"not-json.example":       `<html>`,
		"long.example":           `{"m.server": "host.example", "x": "` + strings.Repeat("x", maxWellKnown) + `"}`,
		"delegates-bare.example": `{"m.server": "delegates.example"}`,
	}}
	r := testResolver(w, map[string][]*net.SRV{
		"matrix-fed srv.example": {{Target: "a.example.", Port: 1}, {Target: "b.example.", Port: 2}},
		"matrix srv.example":     {{Target: "deprecated.example.", Port: 3}},
		"matrix old.example":     {{Target: "c.example.", Port: 4}},
	})
	fallback := func(name string) []fclient.ResolutionResult { return one(name+":8448", name, name) }
	for name, want := range map[string][]fclient.ResolutionResult{
		"port.example:99":        one("port.example:99", "port.example:99", "port.example"),
		"delegates.example":      one("host.example:1234", "host.example:1234", "host.example"),
		"delegates-bare.example": fallback("delegates.example"), // a delegate's own well-known does not count
		"srv.example": append(
			one("a.example:1", "srv.example", "srv.example"), one("b.example:2", "srv.example", "srv.example")...,
		),
		"to-srv.example": append(
			one("a.example:1", "srv.example", "srv.example"), one("b.example:2", "srv.example", "srv.example")...,
		),
		"old.example":      one("c.example:4", "old.example", "old.example"),
		"plain.example":    fallback("plain.example"),
		"empty.example":    fallback("empty.example"),
		"not-json.example": fallback("not-json.example"),
		"long.example":     fallback("long.example"),
	} {
		got, err := r.resolve(t.Context(), name)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
	for name, want := range map[string]mimiport.Kind{
		"192.0.2.1": mimiport.KindForbidden, "127.0.0.1:8448": mimiport.KindForbidden, "[::1]:8448": mimiport.KindForbidden,
		"to-address.example": mimiport.KindForbidden, "to-nonsense.example": mimiport.KindBadMessage,
		"not a name": mimiport.KindBadMessage,
		"":           mimiport.KindBadMessage,
	} {
		_, err := r.resolve(t.Context(), name)
		wantKind(t, err, want)
	}
	r.allowIPLiterals = true
	for name, want := range map[string][]fclient.ResolutionResult{
		"192.0.2.1":        one("192.0.2.1:8448", "192.0.2.1", "192.0.2.1"),
		"192.0.2.1:99":     one("192.0.2.1:99", "192.0.2.1:99", "192.0.2.1"),
		"[2001:db8::1]":    one("[2001:db8::1]:8448", "[2001:db8::1]", "2001:db8::1"),
		"[2001:db8::1]:99": one("[2001:db8::1]:99", "[2001:db8::1]:99", "2001:db8::1"),
	} {
		got, err := r.resolve(t.Context(), name)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s should be allowed: %v %s", name, err, diff)
		}
	}
}

func one(destination, host, tls string) []fclient.ResolutionResult {
	return []fclient.ResolutionResult{{Destination: destination, Host: spec.ServerName(host), TLSServerName: tls}}
}

func TestResolutionsAreKept(t *testing.T) {
	w := &web{answers: map[string]string{"s.example": `{"m.server": "host.example:1"}`}}
	r := testResolver(w, nil)
	clock := time.Now()
	r.now = func() time.Time { return clock }
	resolve := func(asked int) {
		t.Helper()
		if _, err := r.resolve(t.Context(), "s.example"); err != nil || w.asked != asked {
			t.Errorf("after %d requests: %v", w.asked, err)
		}
	}
	resolve(1)
	resolve(1)
	clock = clock.Add(resolutionLife)
	resolve(2)
	r.forget("s.example")
	resolve(3)
	for i := range maxResolutions + 1 {
		r.store(string(rune('a'+i%26))+strings.Repeat("a", i%200)+".example", nil)
		if len(r.cache) > maxResolutions {
			t.Fatal("the cache has no bound")
		}
	}
}

func wantKind(t *testing.T, err error, want mimiport.Kind) {
	t.Helper()
	if err == nil || mimiport.KindOf(err) != want {
		t.Errorf("got error %v of kind %d, want kind %d", err, mimiport.KindOf(err), want)
	}
}
