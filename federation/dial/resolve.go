package dial

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

const (
	resolutionLife = time.Hour // the specification allows at most 24 hours for a well-known answer
	maxResolutions = 4096
	maxWellKnown   = fclient.WellKnownMaxSize
	maxRedirects   = 10 // of one well-known request, as in net/http
)

// resolver finds the addresses of a Matrix server (Matrix server-server API, "Resolving server names"). The resolver of
// fclient is not used, because it sends well-known requests to any address.
type resolver struct {
	allowIPLiterals bool
	web             *http.Client // for well-known requests; its dialer is guarded
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
	if err := r.requirePermitted(server); err != nil {
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

func (r *resolver) requirePermitted(server string) error {
	if err := mimiport.ValidateServerName(server); err != nil {
		return err
	}
	if mimiport.IsIPLiteral(server) && !r.allowIPLiterals {
		return mimiport.Errorf("resolve", mimiport.KindForbidden, "%s: %w", server, errLiteral)
	}
	return nil
}

func (r *resolver) discover(ctx context.Context, server string) ([]fclient.ResolutionResult, error) {
	if explicit(server) {
		return direct(server), nil
	}
	if delegate, err := r.wellKnown(ctx, server); err == nil {
		if err := r.requirePermitted(delegate); err != nil {
			return nil, err
		}
		if explicit(delegate) {
			return direct(delegate), nil
		}
		server = delegate
	}
	if targets := r.srv(ctx, server); len(targets) > 0 {
		return targets, nil
	}
	return direct(server), nil
}

// explicit reports whether a valid name is an IP address or has a port.
func explicit(server string) bool {
	_, port, _ := spec.ParseAndValidateServerName(spec.ServerName(server))
	return port != -1 || mimiport.IsIPLiteral(server)
}

// direct returns the address of a valid name without delegation.
func direct(server string) []fclient.ResolutionResult {
	host, port, _ := spec.ParseAndValidateServerName(spec.ServerName(server))
	if port == -1 {
		port = 8448
	}
	bare := strings.Trim(host, "[]")
	destination := net.JoinHostPort(bare, strconv.Itoa(port))
	return []fclient.ResolutionResult{{Destination: destination, Host: spec.ServerName(server), TLSServerName: bare}}
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
	if err := plainjson.Unmarshal(body, &answer); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK || answer.NewAddress == "" {
		return "", fmt.Errorf("no well-known answer: %s", resp.Status)
	}
	return string(answer.NewAddress), nil
}

// follow allows a redirect of a well-known request only to an https URL of a permitted server name.
func (r *resolver) follow(to *http.Request, via []*http.Request) error {
	if to.URL.Scheme != "https" || len(via) >= maxRedirects {
		return http.ErrUseLastResponse
	}
	return r.requirePermitted(to.URL.Host)
}

func (r *resolver) srv(ctx context.Context, server string) (targets []fclient.ResolutionResult) {
	for _, service := range []string{"matrix-fed", "matrix"} {
		_, records, err := r.lookUpSRV(ctx, service, "tcp", server)
		if err != nil {
			continue // treated as no record: go on with the next step of the specification
		}
		for _, rec := range records {
			destination := net.JoinHostPort(strings.TrimSuffix(rec.Target, "."), strconv.Itoa(int(rec.Port)))
			targets = append(
				targets, fclient.ResolutionResult{Destination: destination, Host: spec.ServerName(server), TLSServerName: server},
			)
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
