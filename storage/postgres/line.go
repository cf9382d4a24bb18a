package postgres

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// dialer makes connections that fail when the server is silent for too long. A server that loses its network or its
// machine closes no connection. Without a deadline its connections hang as long as TCP retries, a quarter of an hour on
// Linux. Behind a proxy that hangs, they hang for ever.
type dialer struct {
	patience time.Duration // for a read or a write

	mu    sync.Mutex
	lines map[*line]struct{} // the open ones
}

func newDialer(patience time.Duration) *dialer {
	return &dialer{patience: patience, lines: make(map[*line]struct{})}
}

// DialContext implements pq.DialerContext.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	// TCP probes a server that is silent between two statements. A pool may keep a connection for days.
	tcp := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: d.patience, Interval: d.patience / 2, Count: 3,
	}}
	conn, err := tcp.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l := &line{Conn: conn, dialer: d, heard: time.Now()}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines[l] = struct{}{}
	return l, nil
}

// Dial implements pq.Dialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialTimeout implements pq.Dialer.
func (d *dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}

// suspect closes every connection on which the server has sent nothing since the given time. The server kept silent on
// one connection since then, so each of the others would probably cost the same wait. The pool replaces a closed
// connection on its next use.
func (d *dialer) suspect(since time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for l := range d.lines {
		if l.heard.Before(since) {
			delete(d.lines, l)
			_ = l.Conn.Close() // no error of a dead connection matters
		}
	}
}

// line is one connection. One goroutine reads and writes; any goroutine may close.
type line struct {
	net.Conn
	dialer *dialer

	heard time.Time // when the server last sent something; the dialer's mutex guards it
	until time.Time // when the handshake must be over; zero for never
}

// SetDeadline sets the time at which everything must end, in addition to the patience for each read and write.
func (l *line) SetDeadline(t time.Time) error {
	l.until = t
	return nil
}

// deadline returns the time at which an operation that starts now must end.
func (l *line) deadline(now time.Time) time.Time {
	patience := now.Add(l.dialer.patience)
	if !l.until.IsZero() && l.until.Before(patience) {
		return l.until
	}
	return patience
}

func (l *line) Read(p []byte) (n int, err error) {
	began := time.Now()
	if err := l.Conn.SetReadDeadline(l.deadline(began)); err != nil {
		return 0, err
	}
	n, err = l.Conn.Read(p)
	l.noteHeard(n)
	return n, l.judge(err, began)
}

// piece is the size in which Write splits a large message. Each piece has the whole patience.
const piece = 64 << 10

func (l *line) Write(p []byte) (written int, err error) {
	for begin := true; begin || len(p) > 0; begin = false {
		began := time.Now()
		if err := l.Conn.SetWriteDeadline(l.deadline(began)); err != nil {
			return written, err
		}
		n, err := l.Conn.Write(p[:min(len(p), piece)])
		written, p = written+n, p[n:]
		if err != nil {
			return written, l.judge(err, began)
		}
	}
	return written, nil
}

func (l *line) noteHeard(n int) {
	if n == 0 {
		return
	}
	l.dialer.mu.Lock()
	defer l.dialer.mu.Unlock()
	l.heard = time.Now()
}

// judge suspects the server's other connections if the server was silent for too long.
func (l *line) judge(err error, began time.Time) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		l.dialer.suspect(began)
	}
	return err
}

func (l *line) Close() error {
	l.dialer.mu.Lock()
	delete(l.dialer.lines, l)
	l.dialer.mu.Unlock()
	return l.Conn.Close()
}
