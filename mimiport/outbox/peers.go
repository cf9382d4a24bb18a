package outbox

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Peer is a destination that fails.
type Peer struct {
	Server   string
	Since    time.Time // the first failure after the last success
	Attempts int       // failures since then
	LastAt   time.Time // the last failure
	Err      error     // the last failure
}

// A destination is worth a warning after this many failures in a row, or after this time. Then this server warns again
// after each warnAgain, and not at each failure.
const (
	warnAttempts = 5
	warnAfter    = 5 * time.Minute
	warnAgain    = time.Hour
)

// maxPeers is the largest number of failing destinations in memory. The outbox soon fails again for a forgotten one.
const maxPeers = 1024

// peers remembers the destinations that fail.
type peers struct {
	mu       sync.Mutex
	failing  map[string]*failing
	failures uint64
}

type failing struct {
	Peer
	warned time.Time
}

// worked records a success.
func (p *peers) worked(server string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.failing, server)
}

// failed records a failure. It reports whether it is time to warn. A row that waits for this server itself is no
// failure of its destination.
func (p *peers) failed(server string, err error, now time.Time) (peer Peer, warn bool) {
	if mimiport.KindOf(err) == mimiport.KindInProgress {
		return Peer{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures++
	f := p.failing[server]
	if f == nil {
		if p.failing == nil || len(p.failing) >= maxPeers {
			p.failing = make(map[string]*failing)
		}
		f = &failing{Peer: Peer{Server: server, Since: now}}
		p.failing[server] = f
	}
	f.Attempts, f.LastAt, f.Err = f.Attempts+1, now, err
	lasts := f.Attempts >= warnAttempts || now.Sub(f.Since) >= warnAfter
	if !lasts || !f.warned.IsZero() && now.Sub(f.warned) < warnAgain {
		return f.Peer, false
	}
	f.warned = now
	return f.Peer, true
}

// Failing lists the other servers that fail, by name.
func (w *Worker) Failing() (list []Peer) {
	w.peers.mu.Lock()
	defer w.peers.mu.Unlock()
	for server, f := range w.peers.failing {
		if aside[server] == 0 && !slices.Contains(w.own, server) {
			list = append(list, f.Peer)
		}
	}
	slices.SortFunc(list, func(a, b Peer) int { return strings.Compare(a.Server, b.Server) })
	return list
}

// Failures counts the failures of all rows of other and own work since the start.
func (w *Worker) Failures() uint64 {
	w.peers.mu.Lock()
	defer w.peers.mu.Unlock()
	return w.peers.failures
}

// Remedy returns what an operator can do about an error that this server's own rules cause, or nothing.
func Remedy(err error) string {
	var known interface{ Remedy() string }
	if errors.As(err, &known) {
		return known.Remedy()
	}
	return ""
}
