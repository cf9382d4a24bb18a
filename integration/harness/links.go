package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Fault is a fault of the connections from one server to another.
type Fault int

// The faults.
const (
	Healthy     Fault = iota
	Refused           // every connection is reset
	BlackHole         // connections stay open, and nothing passes
	AnswersLost       // requests pass, answers do not; the connection is reset a second after an answer
	Slow              // every piece of data is 150 ms late, in both directions
)

const (
	slowness    = 150 * time.Millisecond
	lostAnswers = time.Second
)

// Links are the connections between servers. A proxy listens at each server's name and finds out which server's process
// connects. A fault never affects a process that is not one of the servers.
type Links struct {
	mu        sync.Mutex
	listeners map[*Server]net.Listener
	faults    map[way]Fault
	tunnels   map[*tunnel]bool
	all       sync.WaitGroup
}

// NewLinks makes links for a network. Network.Links must be set before the first server starts.
func NewLinks() *Links {
	return &Links{listeners: map[*Server]net.Listener{}, faults: map[way]Fault{}, tunnels: map[*tunnel]bool{}}
}

type way struct{ from, to *Server }

// tunnel is one connection.
type tunnel struct {
	way
	in, out *net.TCPConn // the connection of way.from, and the connection to way.to
	ctx     context.Context
	end     context.CancelFunc
	greeted atomic.Bool // way.to has sent data: in TLS, its part of the handshake
	asked   atomic.Bool // way.from has sent data after that
}

// listen starts the proxy at the server's name. The server itself listens at Server.Listen.
func (l *Links) listen(ctx context.Context, s *Server) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", s.Name)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.listeners[s] = listener
	l.all.Go(func() { l.serve(s, listener) })
	return nil
}

// Set sets the fault of the connections from one server to another; Healthy ends the fault. Set resets the existing
// connections when the new fault is Refused, or when the old fault was BlackHole or AnswersLost.
func (l *Links) Set(from, to *Server, f Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(way{from, to}, f)
}

// Mend ends all faults.
func (l *Links) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.faults {
		l.set(w, Healthy)
	}
}

func (l *Links) set(w way, f Fault) {
	was := l.faults[w]
	l.faults[w] = f
	for t := range l.tunnels {
		if t.way == w && (f == Refused || was == BlackHole || was == AnswersLost) {
			t.reset()
		}
	}
}

// close stops the proxies, resets all connections, and waits for the goroutines.
func (l *Links) close() error {
	var errs []error
	l.mu.Lock()
	for _, listener := range l.listeners {
		errs = append(errs, listener.Close())
	}
	for t := range l.tunnels {
		t.reset()
	}
	l.mu.Unlock()
	l.all.Wait()
	return errors.Join(errs...)
}

func (l *Links) fault(w way) Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.faults[w]
}

func (l *Links) serve(to *Server, listener net.Listener) {
	for {
		in, err := listener.Accept()
		if err != nil {
			return
		}
		l.all.Go(func() { l.connect(in.(*net.TCPConn), to) })
	}
}

// connect carries one connection, from its acceptance to its end.
func (l *Links) connect(in *net.TCPConn, to *Server) {
	defer in.Close()
	out, err := net.Dial("tcp", to.Listen) // nolint: noctx // on loopback, Dial returns at once
	if err != nil {
		return
	}
	defer out.Close()
	t := &tunnel{way: way{l.owner(in), to}, in: in, out: out.(*net.TCPConn)}
	t.ctx, t.end = context.WithCancel(context.Background())
	stop := context.AfterFunc(t.ctx, func() { _, _ = in.Close(), out.Close() }) // both reads then fail
	defer stop()
	if !l.open(t) {
		return
	}
	defer l.forget(t)
	var back sync.WaitGroup
	back.Go(func() { t.carry(l, in, out, true) })
	t.carry(l, out, in, false)
	back.Wait()
}

// open adds a tunnel to those of the links. It returns false and resets the tunnel when connections are refused.
func (l *Links) open(t *tunnel) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.faults[t.way] == Refused {
		t.reset()
		return false
	}
	l.tunnels[t] = true
	return true
}

func (l *Links) forget(t *tunnel) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.tunnels, t)
	t.end()
}

// reset ends a tunnel with a TCP reset to both servers.
func (t *tunnel) reset() {
	_, _ = t.in.SetLinger(0), t.out.SetLinger(0)
	t.end()
}

// carry copies the data of one direction, requests or answers. When it ends, the tunnel ends.
func (t *tunnel) carry(l *Links, to io.Writer, from io.Reader, answers bool) {
	defer t.end()
	piece := make([]byte, 16<<10)
	for {
		n, err := from.Read(piece)
		if !t.pass(l.fault(t.way), answers) {
			return
		}
		if _, failed := to.Write(piece[:n]); failed != nil || err != nil {
			return
		}
	}
}

// pass waits until a piece of data may pass. It returns false when the tunnel has ended. With AnswersLost the TLS
// handshake still passes, as the client sends no request without it.
func (t *tunnel) pass(f Fault, answer bool) bool {
	if answer {
		t.greeted.Store(true)
	} else if t.greeted.Load() {
		t.asked.Store(true)
	}
	switch {
	case f == BlackHole:
		<-t.ctx.Done()
	case f == AnswersLost && answer && t.asked.Load():
		Wait(t.ctx, lostAnswers)
		t.reset()
	case f == Slow:
		Wait(t.ctx, slowness)
	}
	return t.ctx.Err() == nil
}

// owner returns the server whose process has made a connection, or nil.
func (l *Links) owner(in *net.TCPConn) *Server {
	inode, err := socketInode(in.RemoteAddr().(*net.TCPAddr).Port, in.LocalAddr().(*net.TCPAddr).Port)
	if err != nil {
		return nil // the connection is closed already
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.listeners {
		if s.hasSocket(inode) {
			return s
		}
	}
	return nil
}

// hasSocket reports whether the server's process has a socket open.
func (s *Server) hasSocket(inode string) bool {
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.pid.Load()))
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if link, err := os.Readlink(fd); err == nil && link == "socket:["+inode+"]" {
			return true
		}
	}
	return false
}

// socketInode finds the socket on this machine that is connected from one port to another (Linux, proc(5)). The kernel
// returns its table in pieces. A reader can miss an entry when other entries come and go, so socketInode tries 3 times.
func socketInode(local, remote int) (inode string, err error) {
	const looks = 3
	for range looks {
		if inode, err = findSocket(local, remote); err == nil {
			break
		}
	}
	return inode, err
}

func findSocket(local, remote int) (inode string, err error) {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(table)
		if err != nil {
			return "", err
		}
		defer f.Close()
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			const localAt, remoteAt, inodeAt = 1, 2, 9
			fields := strings.Fields(lines.Text())
			if len(fields) > inodeAt && port(fields[localAt]) == local && port(fields[remoteAt]) == remote {
				return fields[inodeAt], nil
			}
		}
		if err := lines.Err(); err != nil {
			return "", err
		}
	}
	return "", os.ErrNotExist
}

// port returns the port of ADDRESS:PORT in hexadecimal, or -1.
func port(address string) int {
	n, err := strconv.ParseUint(address[strings.LastIndex(address, ":")+1:], 16, 16)
	if err != nil {
		return -1
	}
	return int(n)
}
