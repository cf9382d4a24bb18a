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

// Fault is what befalls the connections that one server makes to another.
type Fault int

// The faults.
const (
	Healthy     Fault = iota
	Refused           // every connection is reset
	BlackHole         // connections stay open, and nothing passes
	AnswersLost       // requests arrive, their answers do not; a second later the connection is reset
	Slow              // every piece takes 150 ms, in either direction
)

const (
	slowness    = 150 * time.Millisecond
	lostAnswers = time.Second
)

// Links are the ways between servers: a proxy at each server's name, which knows whose process connects. Whoever is
// none of the servers is never disturbed.
type Links struct {
	mu        sync.Mutex
	listeners map[*Server]net.Listener
	faults    map[way]Fault
	tunnels   map[*tunnel]bool
	all       sync.WaitGroup
}

// NewLinks makes links for the servers of a network that is to be started.
func NewLinks() *Links {
	return &Links{listeners: map[*Server]net.Listener{}, faults: map[way]Fault{}, tunnels: map[*tunnel]bool{}}
}

type way struct{ from, to *Server }

// tunnel is one connection.
type tunnel struct {
	way
	in, out *net.TCPConn // from, to
	ctx     context.Context
	end     context.CancelFunc
	greeted atomic.Bool // the server has answered: in TLS, with its side of the handshake
	asked   atomic.Bool // and has been spoken to after that
}

// listen begins to listen at the server's name for what the server itself listens to elsewhere.
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

// Set lets a fault befall what from sends to to, or ends it. A network that fails or recovers remembers no connections,
// so those that there are end too; but not where it was or becomes slow.
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

// close ends everything.
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
	out, err := net.Dial("tcp", to.Listen) // nolint: noctx // on loopback it ends at once
	if err != nil {
		return
	}
	defer out.Close()
	t := &tunnel{way: way{l.owner(in), to}, in: in, out: out.(*net.TCPConn)}
	t.ctx, t.end = context.WithCancel(context.Background())
	stop := context.AfterFunc(t.ctx, func() { _, _ = in.Close(), out.Close() }) // which ends what is read from them
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

// open remembers a tunnel, unless it is refused.
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

// reset ends a tunnel so that both ends see it.
func (t *tunnel) reset() {
	_, _ = t.in.SetLinger(0), t.out.SetLinger(0)
	t.end()
}

// carry carries one direction, of requests or of answers, and ends both when it ends.
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

// pass waits until a piece may pass; false when the tunnel is to end. Of lost answers the first one passes: without it,
// the server's part of the handshake, there would be no request.
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

// owner is the server whose process has made a connection; nil if none has.
func (l *Links) owner(in *net.TCPConn) *Server {
	inode, err := socketInode(in.RemoteAddr().(*net.TCPAddr).Port, in.LocalAddr().(*net.TCPAddr).Port)
	if err != nil {
		return nil // whoever made it is gone
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

// hasSocket says whether the server's process has a socket open.
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
// gives its table in pieces: an entry can be missed when others come and go meanwhile, so socketInode looks again.
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

// port is the port of ADDRESS:PORT in hexadecimal, -1 if there is none.
func port(address string) int {
	n, err := strconv.ParseUint(address[strings.LastIndex(address, ":")+1:], 16, 16)
	if err != nil {
		return -1
	}
	return int(n)
}
