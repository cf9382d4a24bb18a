package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

const (
	resolutionLife = time.Hour // within the 24 hours at most that the specification lets a well-known answer be kept
	maxResolutions = 4096
	maxWellKnown   = fclient.WellKnownMaxSize
)

// resolver finds where a Matrix server listens (Matrix server-server API, "Resolving server names"). fclient's own sends
// its well-known requests to any address whatever, so that step is done here.
type resolver struct {
	allowIPLiterals bool
	web             *http.Client // guarded; for well-known
	lookUpSRV       func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	now             func() time.Time

	mu    sync.Mutex
	cache map[string]resolution
}

type resolution struct {
	results []fclient.ResolutionResult
	until   time.Time
}

func (r *resolver) resolve(ctx context.Context, server string) ([]fclient.ResolutionResult, error) {
	if err := r.accept(server); err != nil {
		return nil, err
	}
	if results := r.cached(server); results != nil {
		return results, nil
	}
	results, err := r.discover(ctx, server)
	if err != nil {
		return nil, err
	}
	r.store(server, results)
	return results, nil
}

func (r *resolver) accept(server string) error {
	if err := mimiport.ValidateServerName(server); err != nil {
		return err
	}
	if mimiport.IsIPLiteral(server) && !r.allowIPLiterals {
		return mimiport.Errorf("resolve", mimiport.KindForbidden, "the server name %s is an IP address", server)
	}
	return nil
}

func (r *resolver) discover(ctx context.Context, server string) ([]fclient.ResolutionResult, error) {
	if explicit(server) {
		return fclient.ResolveServer(ctx, spec.ServerName(server)) // looks nothing up for such names
	}
	if delegate, err := r.wellKnown(ctx, server); err == nil {
		if err := r.accept(delegate); err != nil {
			return nil, err
		}
		if explicit(delegate) {
			return fclient.ResolveServer(ctx, spec.ServerName(delegate))
		}
		server = delegate
	}
	if targets := r.srv(ctx, server); len(targets) > 0 {
		return targets, nil
	}
	return []fclient.ResolutionResult{{Destination: server + ":8448", Host: spec.ServerName(server), TLSServerName: server}}, nil
}

// explicit says whether a valid name is an address itself, or has a port.
func explicit(server string) bool {
	_, port, _ := spec.ParseAndValidateServerName(spec.ServerName(server))
	return port != -1 || mimiport.IsIPLiteral(server)
}

func (r *resolver) wellKnown(ctx context.Context, server string) (delegate string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+server+"/.well-known/matrix/server", nil)
	if err != nil {
		return "", err
	}
	resp, err := r.web.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() // nolint: errcheck
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxWellKnown))
	if err != nil {
		return "", err
	}
	var answer fclient.WellKnownResult
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK || answer.NewAddress == "" {
		return "", fmt.Errorf("no well-known answer: %s", resp.Status)
	}
	return string(answer.NewAddress), nil
}

func (r *resolver) srv(ctx context.Context, server string) (targets []fclient.ResolutionResult) {
	for _, service := range []string{"matrix-fed", "matrix"} {
		_, records, err := r.lookUpSRV(ctx, service, "tcp", server)
		if err != nil {
			continue // as good as none: the next step of the specification follows
		}
		for _, rec := range records {
			destination := net.JoinHostPort(strings.TrimSuffix(rec.Target, "."), strconv.Itoa(int(rec.Port)))
			targets = append(targets, fclient.ResolutionResult{Destination: destination, Host: spec.ServerName(server), TLSServerName: server})
		}
		if len(targets) > 0 {
			break
		}
	}
	return targets
}

func (r *resolver) cached(server string) []fclient.ResolutionResult {
	r.mu.Lock()
	defer r.mu.Unlock()
	if found := r.cache[server]; r.now().Before(found.until) {
		return found.results
	}
	return nil
}

func (r *resolver) store(server string, results []fclient.ResolutionResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cache == nil || len(r.cache) >= maxResolutions {
		r.cache = make(map[string]resolution)
	}
	r.cache[server] = resolution{results, r.now().Add(resolutionLife)}
}

func (r *resolver) forget(server string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.cache, server)
}

// guardedDialer connects to public addresses only, unless private networks are allowed. It judges the address that is about to
// be connected to, so that no DNS answer can get around it (CVE-2024-52594).
func guardedDialer(allowPrivate bool) *net.Dialer {
	d := &net.Dialer{Timeout: 5 * time.Second}
	if !allowPrivate {
		d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return refusePrivate(address)
		}
	}
	return d
}

var errPrivate = errors.New("not a public address")

func refusePrivate(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if !isPublic(ap.Addr().Unmap()) {
		return fmt.Errorf("%s: %w", address, errPrivate)
	}
	return nil
}

// notPublic lists the special-purpose ranges that the methods of netip.Addr do not know (IANA special-purpose address
// registries, RFC 6890), and the IPv6 ranges that lead to IPv4 addresses in disguise.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // carrier-grade NAT
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"),
	netip.MustParsePrefix("64:ff9b::/96"), // NAT64
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/23"), // Teredo among others
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"), // 6to4
	netip.MustParsePrefix("3fff::/20"),
	netip.MustParsePrefix("5f00::/16"),
	netip.MustParsePrefix("fec0::/10"),
}

func isPublic(a netip.Addr) bool {
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(a) {
			return false
		}
	}
	return true
}
