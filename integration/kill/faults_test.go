package kill

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// link is a pair whose servers reach each other through proxies only.
type link struct {
	*pair
	proxies [2]*proxy // to each server
}

func newLink(t *testing.T) *link {
	t.Helper()
	l := &link{pair: newPair(t, nil, [2]string{section, section})}
	for i, s := range l.servers {
		free, err := net.Listen("tcp", "localhost:0") // nolint: noctx // nothing is waited for
		if err != nil {
			t.Fatal(err)
		}
		s.Listen = free.Addr().String()
		if err := errors.Join(free.Close(), s.Kill()); err != nil {
			t.Fatal(err)
		}
		l.proxies[i] = newProxy(t, s.Name, s.Listen)
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// faults are what befalls servers or the network between them. Each strikes while the group moves back and forth, and lasts longer than
// there is time to decide; host has the group when the first migration begins.
var faults = []struct {
	name   string
	sample bool // always tried
	strike func(t *testing.T, l *link, host int) (relieve func())
}{
	{"the source stands still", true, func(t *testing.T, l *link, host int) func() { return pause(t, l.servers[host]) }},
	{"the target stands still", false, func(t *testing.T, l *link, host int) func() { return pause(t, l.servers[1-host]) }},
	{"nothing reaches the source", false, func(_ *testing.T, l *link, host int) func() { return l.cut(host) }},
	{"nothing reaches the target", false, func(_ *testing.T, l *link, host int) func() { return l.cut(1 - host) }},
	{"the network is cut", true, func(_ *testing.T, l *link, _ int) func() { return l.cut(0, 1) }},
	{"the network is slow", false, func(_ *testing.T, l *link, _ int) func() {
		for _, p := range l.proxies {
			p.set(false, 150*time.Millisecond)
		}
		return l.mend
	}},
}

func pause(t *testing.T, s *harness.Server) (resume func()) {
	t.Helper()
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := s.Resume(); err != nil {
			t.Fatal(err)
		}
	}
}

func (l *link) cut(servers ...int) (mend func()) {
	for _, i := range servers {
		l.proxies[i].set(true, 0)
	}
	return l.mend
}

func (l *link) mend() {
	for _, p := range l.proxies {
		p.set(false, 0)
	}
}

// lasting is how long a fault lasts: longer than decide_by in section.
const lasting = 5 * time.Second

// Profile, section 6: "S's clock alone decides", and T "never infers an abort from silence". Servers stand still and the network fails
// across decide_by: the members and one Delivery Service agree afterwards, and nothing that was acknowledged is lost.
func TestFaults(t *testing.T) {
	l := newLink(t)
	all := os.Getenv(soakEnv) != ""
	for _, f := range faults {
		if !all && !f.sample {
			continue
		}
		if !t.Run(f.name, func(t *testing.T) { l.suffer(t, func(host int) func() { return f.strike(t, l, host) }) }) {
			return
		}
	}
}

// suffer lets a fault strike while the group is in use and moves back and forth.
func (p *pair) suffer(t *testing.T, strike func(host int) (relieve func())) {
	host := p.settle(t)
	stop := p.traffic(t)
	enough := make(chan struct{})
	end := p.migrate(t, 1-host, enough)
	wait(t.Context(), 300*time.Millisecond) // somewhere in a migration
	relieve := strike(host)
	wait(t.Context(), lasting)
	relieve()
	wait(t.Context(), time.Second)
	close(enough)
	outcome := end(t)
	stop()
	host = p.settle(t)
	n := p.collect(t)
	p.audit(t, host)
	t.Logf("the last migration: %s; %d messages", outcome, n)
}

// A disk that is full: nothing is accepted that cannot be stored, and when there is room again everything goes on. It takes the right
// to mount a file system, and is tried with all the rest only.
func TestFullDisk(t *testing.T) {
	if os.Getenv(soakEnv) == "" {
		return
	}
	for _, full := range []string{source, target} {
		t.Run(full, func(t *testing.T) {
			disk := t.TempDir()
			if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
			sections := [2]string{section, section}
			i := map[string]int{source: 0, target: 1}[full]
			store := "file:" + filepath.Join(disk, "mimi_portability.db")
			sections[i] = strings.Replace(section, `{{.Database "mimi_portability"}}`, store, 1)
			p := newPair(t, nil, sections)
			p.stores[i] = store
			p.suffer(t, func(int) func() { return fill(t, disk) })
		})
	}
}

// fill leaves no room on a disk.
func fill(t *testing.T, disk string) (empty func()) {
	t.Helper()
	ballast := filepath.Join(disk, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = fmt.Fprint(f, rand.Text())
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
}
