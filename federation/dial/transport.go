// Package dial sends requests to Matrix servers whose names clients and peers have chosen. It connects only to
// addresses that the operator permits. No other package of this module resolves or dials: fclient's own resolver and
// dialer go to any address (CVE-2024-52594).
package dial

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
)

// maxTransports is the largest number of connection pools. One pool holds at most two idle connections.
const maxTransports = 256

// Allowed lists the destinations that are allowed. The zero value is all server names with public addresses.
type Allowed struct {
	Networks   Networks
	IPLiterals bool           // server names that are IP addresses
	Roots      *x509.CertPool // the authorities that may vouch for a server; nil for the system's
}

// Transport is an http.RoundTripper for matrix:// URLs.
type Transport struct {
	resolver *resolver
	template *http.Transport

	mu    sync.Mutex
	pools map[string]*http.Transport // by TLS server name, which a transport cannot choose per connection
}

// NewTransport makes a transport. With skipVerify, which federation_api.disable_tls_validation sets, it accepts any
// certificate, except in well-known requests: their answers name the server to trust.
func NewTransport(allowed Allowed, skipVerify bool, now func() time.Time) *Transport {
	template := &http.Transport{
		DialContext:            guardedDialer(allowed.Networks).DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: allowed.Roots, InsecureSkipVerify: skipVerify},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        5 * time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
	web := template.Clone()
	web.TLSClientConfig.InsecureSkipVerify = false
	r := &resolver{allowIPLiterals: allowed.IPLiterals, lookUpSRV: net.DefaultResolver.LookupSRV, now: now}
	r.web = &http.Client{Transport: web, Timeout: 10 * time.Second, CheckRedirect: r.follow}
	return &Transport{resolver: r, template: template, pools: make(map[string]*http.Transport)}
}

// RoundTrip tries the addresses of a server in turn. It sends a body that cannot be read again only to the first
// address. It returns a *mimiport.Error of KindForbidden or KindBadMessage for a name that it must not dial.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
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
			resp.Header.Del("Location") // no Matrix API redirects, and http.Client would follow
			return resp, nil
		}
	}
	t.resolver.forget(server) // the server may have another address now
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

func (t *Transport) pool(tlsServerName string) *http.Transport {
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

// evict makes room for one more pool. It drops any pool, because a new connection is cheap.
func (t *Transport) evict() {
	if len(t.pools) < maxTransports {
		return
	}
	for name, p := range t.pools {
		delete(t.pools, name)
		p.CloseIdleConnections()
		return
	}
}
