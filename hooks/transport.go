package hooks

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
)

// maxTransports bounds the connection pools that are kept. One holds at most two idle connections.
const maxTransports = 256

// transport is an http.RoundTripper for matrix:// URLs. The server names in them come from clients and peers, so it connects
// to no address that the configuration forbids.
type transport struct {
	resolver *resolver
	template *http.Transport

	mu    sync.Mutex
	pools map[string]*http.Transport // by TLS server name, which a transport cannot choose per connection
}

func newTransport(cfg *Federation, skipVerify bool, now func() time.Time) *transport {
	template := &http.Transport{
		DialContext:            guardedDialer(cfg.AllowPrivateNetworks).DialContext,
		TLSClientConfig:        &tls.Config{InsecureSkipVerify: skipVerify}, // as federation_api.disable_tls_validation says
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        5 * time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
	web := template.Clone()
	web.TLSClientConfig = nil // a well-known answer decides whom to believe: it is never taken without a valid certificate
	return &transport{
		resolver: &resolver{
			allowIPLiterals: cfg.AllowIPLiterals,
			web:             &http.Client{Transport: web, Timeout: 10 * time.Second},
			lookUpSRV:       net.DefaultResolver.LookupSRV,
			now:             now,
		},
		template: template,
		pools:    make(map[string]*http.Transport),
	}
}

// RoundTrip tries the addresses of a server in turn. A body that cannot be read again is sent to the first only.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	server := r.URL.Host
	targets, err := t.resolver.resolve(r.Context(), server)
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // as every RoundTripper must
		}
		return nil, err
	}
	for i, target := range targets {
		attempt, rewindErr := requestTo(r, target, i == 0)
		if rewindErr != nil {
			break
		}
		var resp *http.Response
		if resp, err = t.pool(target.TLSServerName).RoundTrip(attempt); err == nil {
			return resp, nil
		}
	}
	t.resolver.forget(server) // it may have moved
	return nil, fmt.Errorf("%s: %w", server, err)
}

func requestTo(r *http.Request, target fclient.ResolutionResult, first bool) (*http.Request, error) {
	attempt := r.Clone(r.Context())
	attempt.URL.Scheme, attempt.URL.Host, attempt.Host = "https", target.Destination, string(target.Host)
	if first || r.Body == nil {
		return attempt, nil
	}
	if r.GetBody == nil {
		return nil, http.ErrBodyReadAfterClose
	}
	body, err := r.GetBody()
	attempt.Body = body
	return attempt, err
}

func (t *transport) pool(tlsServerName string) *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.pools[tlsServerName]
	if !ok {
		t.evict()
		p = t.template.Clone()
		p.TLSClientConfig.ServerName = tlsServerName
		t.pools[tlsServerName] = p
	}
	return p
}

// evict makes room for one more, of any age: to open a connection again is cheap.
func (t *transport) evict() {
	if len(t.pools) < maxTransports {
		return
	}
	for name, p := range t.pools {
		delete(t.pools, name)
		p.CloseIdleConnections()
		return
	}
}
