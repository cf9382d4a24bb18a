package kill

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// proxy is the way to a server, which can be cut and be slow.
type proxy struct {
	to string

	mu    sync.Mutex
	cut   bool
	delay time.Duration // of each piece in either direction
	conns map[net.Conn]bool
}

// newProxy listens at one address for a server at another, until the test ends.
func newProxy(t *testing.T, at, to string) *proxy {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{to: to, conns: map[net.Conn]bool{}}
	var all sync.WaitGroup
	all.Go(func() { p.serve(t.Context(), listener, &all) })
	t.Cleanup(func() {
		_ = listener.Close()
		p.set(true, 0)
		all.Wait()
	})
	return p
}

// set cuts the way or makes it slow. Connections that there are end with a cut.
func (p *proxy) set(cut bool, delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.delay = cut, delay
	if cut {
		for c := range p.conns {
			_ = c.Close() // which ends what is read from it
		}
	}
}

// keep remembers a connection, unless the way is cut.
func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.cut {
		p.conns[c] = true
	}
	return !p.cut
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

func (p *proxy) serve(ctx context.Context, listener net.Listener, all *sync.WaitGroup) {
	for {
		in, err := listener.Accept()
		if err != nil {
			return
		}
		all.Go(func() { p.connect(ctx, in) })
	}
}

// connect carries one connection on.
func (p *proxy) connect(ctx context.Context, in net.Conn) {
	defer p.drop(in)
	if !p.keep(in) {
		return
	}
	var dialer net.Dialer
	out, err := dialer.DialContext(ctx, "tcp", p.to)
	if err != nil {
		return
	}
	defer p.drop(out)
	if !p.keep(out) {
		return
	}
	var back sync.WaitGroup
	back.Go(func() { p.carry(ctx, in, out) })
	p.carry(ctx, out, in)
	back.Wait()
}

// carry carries one direction, and ends both when it ends.
func (p *proxy) carry(ctx context.Context, to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	piece := make([]byte, 16<<10)
	for {
		n, err := from.Read(piece)
		p.mu.Lock()
		delay := p.delay
		p.mu.Unlock()
		wait(ctx, delay)
		if _, failed := to.Write(piece[:n]); failed != nil || err != nil {
			return
		}
	}
}

// wait lets a time pass.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
