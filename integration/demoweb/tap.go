package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// wire hears the draft's messages on their way. It holds each back for a time, and it can be cut between the servers.
type wire struct {
	*board
	pace time.Duration

	mu        sync.Mutex
	migration string // the id of the latest, empty until its offer has passed
	began     time.Time
	line      context.Context // ends when the servers are cut off from each other
	cut       context.CancelFunc
}

func newWire(b *board, pace time.Duration) *wire {
	w := &wire{board: b, pace: pace}
	w.mend()
	return w
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.line, w.cut = context.WithCancel(context.Background())
}

// connected returns the context of a request between the servers. It ends with the line.
func (w *wire) connected(ctx context.Context) (context.Context, context.CancelFunc) {
	w.mu.Lock()
	line := w.line
	w.mu.Unlock()
	ctx, end := context.WithCancel(ctx)
	stop := context.AfterFunc(line, end)
	return ctx, func() { stop(); end() }
}

// hear shows the messages of one request or answer. A MigrationRequest begins the next migration. Messages of former
// migrations, and repeated ones, change nothing.
func (w *wire) hear(ctx context.Context, migration, from, to string, kinds []kind, body []byte) {
	p := partsOf(body)
	for _, k := range kinds {
		m, ok := k.read(p)
		if !ok || !w.note(&m, migration, p.ID) {
			continue
		}
		m.From, m.To = from, to
		w.change(func(p *picture) { p.Messages = append(p.Messages, m) })
		harness.Wait(ctx, w.pace)
	}
}

// note dates a message. It returns false for one that is not new. offer is the id in a target's offer.
func (w *wire) note(m *message, migration, offer string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch m.Name {
	case "MigrationRequest":
		w.migration, w.began = "", time.Now()
		w.change(func(p *picture) { p.Messages = nil })
	case "MigrationResponse":
		w.migration = offer
	default:
		if migration != w.migration || w.has(m.Name) {
			return false
		}
	}
	m.At = time.Since(w.began).Milliseconds()
	return true
}

func (w *wire) has(name string) (has bool) {
	w.board.mu.Lock()
	defer w.board.mu.Unlock()
	return slices.ContainsFunc(w.picture.Messages, func(m message) bool { return m.Name == name })
}

// tap carries requests to a server, and hears them.
type tap struct {
	*wire
	to   *harness.Server
	name func(server string) string // the label of a server
	user string                     // whose requests these are; empty for those of servers
	next http.RoundTripper
}

// origin finds the server that has signed a request.
var origin = regexp.MustCompile(`^X-Matrix .*origin="?([^",]+)`)

// RoundTrip implements http.RoundTripper.
func (t *tap) RoundTrip(r *http.Request) (*http.Response, error) {
	found := routeOf(r)
	if found == nil || t.user != "" && found.service != t.to.Name { // the homeserver forwards it
		return t.next.RoundTrip(r)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	asked := r.Clone(r.Context())
	asked.Body = io.NopCloser(bytes.NewReader(body))
	from, to, exchange := t.sender(r), t.name(t.to.Name), exchanges[found.exchange]
	t.hear(r.Context(), found.migration, from, to, exchange.request, body)
	resp, err := t.next.RoundTrip(asked)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	if resp.StatusCode == http.StatusOK {
		t.hear(r.Context(), found.migration, to, from, exchange.answer, answer)
	}
	return resp, nil
}

func (t *tap) sender(r *http.Request) string {
	if t.user != "" {
		return t.user
	}
	if found := origin.FindStringSubmatch(r.Header.Get("Authorization")); found != nil {
		return t.name(found[1])
	}
	return ""
}

// proxy carries requests to an address. It passes a failure on as a broken connection, as the network does.
func (t *tap) proxy(address string) (http.Handler, error) {
	target, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		Transport:    t,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:     quiet,
	}, nil
}

// readiness is the only request that passes a cut line: the harness asks it of a server that starts.
const readiness = "/_matrix/federation/v1/version"

// breakable carries requests of servers as long as the line is whole.
func (w *wire) breakable(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != readiness {
			ctx, end := w.connected(r.Context())
			defer end()
			r = r.WithContext(ctx)
		}
		next.ServeHTTP(rw, r)
	})
}

var quiet = log.New(io.Discard, "", 0)

// listen serves a handler on a free port until the context ends, and returns its address.
func listen(ctx context.Context, h http.Handler) (address string, err error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	serveAt(ctx, h, func(s *http.Server) error { return s.Serve(l) })
	return "http://" + l.Addr().String(), nil
}

// serveAt runs a server until the context ends.
func serveAt(ctx context.Context, h http.Handler, run func(*http.Server) error) {
	s := &http.Server{Handler: h, ErrorLog: quiet}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	go func() {
		if err := run(s); !errors.Is(err, http.ErrServerClosed) {
			log.Print(err)
		}
	}()
}
