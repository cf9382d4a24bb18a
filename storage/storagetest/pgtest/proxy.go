package pgtest

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// Proxy is an address of a server on loopback TCP. It can become a black hole.
type Proxy struct {
	listener net.Listener

	mu    sync.Mutex
	to    *Server // nil for a black hole
	pipes []*pipe
	all   sync.WaitGroup
}

// pipe is one connection through a Proxy.
type pipe struct {
	ends  []net.Conn
	stuck chan struct{} // closed when the pipe carries nothing any more
}

// NewProxy starts a Proxy. It ends with the test.
func NewProxy(tb testing.TB, to *Server) *Proxy {
	tb.Helper()
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{listener: listener, to: to}
	p.all.Go(p.serve)
	tb.Cleanup(p.close)
	return p
}

// Port returns the port of the Proxy.
func (p *Proxy) Port() int { return p.listener.Addr().(*net.TCPAddr).Port }

// Through returns a connection string that leads to a server through proxies, in their order.
func Through(tb testing.TB, connection string, proxies ...*Proxy) string {
	tb.Helper()
	u, err := url.Parse(connection)
	if err != nil {
		tb.Fatal(err)
	}
	hosts, ports := "", ""
	for i, p := range proxies {
		separator := ","
		if i == 0 {
			separator = ""
		}
		hosts += separator + "localhost"
		ports += fmt.Sprint(separator, p.Port())
	}
	query := u.Query()
	query.Set("host", hosts)
	query.Set("port", ports)
	u.RawQuery = query.Encode()
	return u.String()
}

// Swallow makes the Proxy a black hole. Its connections never carry anything again. It accepts new connections and does
// not answer them. It closes none.
func (p *Proxy) Swallow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = nil
	for _, pipe := range p.pipes {
		select {
		case <-pipe.stuck:
		default:
			close(pipe.stuck)
		}
	}
}

// Lead sends new connections to a server.
func (p *Proxy) Lead(to *Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
}

func (p *Proxy) close() {
	p.Swallow()
	p.listener.Close()
	p.mu.Lock()
	for _, pipe := range p.pipes {
		for _, end := range pipe.ends {
			end.Close()
		}
	}
	p.mu.Unlock()
	p.all.Wait()
}

func (p *Proxy) serve() {
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.connect(in)
		p.mu.Unlock()
	}
}

// connect starts to carry a connection.
func (p *Proxy) connect(in net.Conn) {
	c := &pipe{ends: []net.Conn{in}, stuck: make(chan struct{})}
	p.pipes = append(p.pipes, c)
	if p.to == nil {
		return
	}
	out, err := net.Dial("unix", p.to.Socket())
	if err != nil {
		in.Close()
		return
	}
	c.ends = append(c.ends, out)
	p.all.Go(func() { c.carry(in, out) })
	p.all.Go(func() { c.carry(out, in) })
}

// carry copies one direction. When one end closes, it closes the other end, unless the pipe is stuck.
func (c *pipe) carry(to io.WriteCloser, from io.Reader) {
	piece := make([]byte, 64<<10)
	for {
		n, err := from.Read(piece)
		select {
		case <-c.stuck:
			return
		default:
		}
		_, failed := to.Write(piece[:n])
		if cmp.Or(err, failed) != nil {
			to.Close()
			return
		}
	}
}
