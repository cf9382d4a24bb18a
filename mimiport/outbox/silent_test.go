package outbox_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// timeout is the time after which a request to a silent server fails. pace is the time that a row of a healthy
// destination takes.
const (
	timeout = 16 * time.Second
	pace    = 40 * time.Millisecond
)

// network plays the servers of the rows. A server whose name begins with "silent" never answers.
type network struct {
	mu      sync.Mutex
	running map[string]int // running rows by destination
	most    int            // the most rows for silent servers that ran at a time
	done    map[string]time.Time
}

func newNetwork() *network {
	return &network{running: make(map[string]int), done: make(map[string]time.Time)}
}

func isSilent(destination string) bool { return strings.HasPrefix(destination, "silent") }

func (n *network) handle(ctx context.Context, row storage.Row) error {
	if !isSilent(row.Destination) {
		<-time.After(pace)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.done[name(&row)] = time.Now()
		return nil
	}
	n.enter(row.Destination, 1)
	defer n.enter(row.Destination, -1)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(timeout):
		return mimiport.Errorf("send", mimiport.KindPeer, "%s does not answer", row.Destination)
	}
}

func name(row *storage.Row) string { return row.Destination + "/" + row.Queue }

func (n *network) enter(destination string, by int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.running[destination] += by
	if n.running[destination] == 0 {
		delete(n.running, destination)
	}
	sum := 0
	for _, rows := range n.running {
		sum += rows
	}
	n.most = max(n.most, sum)
}

// latencies delivers to the healthy destinations for a minute while the worker also has the rows beside. It returns
// the time of each delivery.
func latencies(t *testing.T, n *network, healthy []string, beside []storage.Row) map[string]time.Duration {
	took := make(map[string]time.Duration)
	b := newBench(t, n.handle)
	deliver := func(queue string) {
		put := time.Now()
		var rows []storage.Row
		for _, d := range healthy {
			rows = append(rows, row(d, queue, 1, put))
		}
		b.put(rows...)
		<-time.After(time.Second)
		for i := range rows {
			n.mu.Lock()
			done, ok := n.done[name(&rows[i])]
			n.mu.Unlock()
			if !ok {
				t.Errorf("%s was not delivered within a second", name(&rows[i]))
			}
			took[name(&rows[i])] = done.Sub(put)
		}
	}
	deliver("first") // from now on, the scheduler knows that they answer
	b.put(beside...)
	for second := range 60 {
		deliver(fmt.Sprint(second))
	}
	return took
}

// silentRows makes due rows for silent servers, one in each of their queues.
func silentRows(servers, queues int) (rows []storage.Row) {
	for s := range servers {
		for q := range queues {
			rows = append(rows, row(fmt.Sprint("silent", s), fmt.Sprint(q), 1, time.Now().Add(-time.Hour)))
		}
	}
	return rows
}

// With any number of silent servers, own work and delivery to servers that answer take at most twice the time that
// they take alone. Silent servers take at most half of the places for other servers, and at most one each.
func TestSilentServersSlowNobody(t *testing.T) {
	for _, test := range []struct{ servers, queues, most int }{{1000, 1, 24}, {1, 24, 1}, {8, 8, 8}, {100, 20, 24}} {
		t.Run(fmt.Sprintf("%d with %d queues", test.servers, test.queues), func(t *testing.T) {
			healthy := []string{own}
			for i := range 20 {
				healthy = append(healthy, fmt.Sprint("healthy", i))
			}
			var alone, beside map[string]time.Duration
			synctest.Test(t, func(t *testing.T) { alone = latencies(t, newNetwork(), healthy, nil) })
			n := newNetwork()
			synctest.Test(t, func(t *testing.T) { beside = latencies(t, n, healthy, silentRows(test.servers, test.queues)) })
			for name, took := range beside {
				if took > 2*alone[name] {
					t.Errorf("%s took %v beside silent servers, %v alone", name, took, alone[name])
				}
			}
			if n.most != test.most {
				t.Errorf("%d rows for silent servers were at work at a time, want %d", n.most, test.most)
			}
			t.Logf("the slowest delivery took %v alone, %v beside silent servers", slowest(alone), slowest(beside))
		})
	}
}

func slowest(took map[string]time.Duration) time.Duration {
	return slices.Max(slices.Collect(maps.Values(took)))
}

// Servers that become silent while they run as many rows as they may do not stop other work, and soon have one place
// each.
func TestServersFallSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down sync.Map // the destinations that do not answer now
		b := newBench(t, func(ctx context.Context, row storage.Row) error {
			if _, ok := down.Load(row.Destination); !ok {
				return nil
			}
			select {
			case <-ctx.Done():
			case <-time.After(timeout):
			}
			return mimiport.Errorf("send", mimiport.KindPeer, "no answer")
		})
		const servers = 8
		for i := range servers {
			b.put(row(fmt.Sprint(i), "first", 1, b.begin))
		}
		b.put(row("healthy", "first", 1, b.begin))
		synctest.Wait()
		var rows []storage.Row
		for i := range servers {
			down.Store(fmt.Sprint(i), nil)
			for q := range 20 {
				rows = append(rows, row(fmt.Sprint(i), fmt.Sprint(q), 1, b.begin))
			}
		}
		b.put(rows...)
		synctest.Wait()
		if n := b.atWork(); n != 40 {
			t.Errorf("servers that answered have %d rows at work, want all places but the 8 spare ones", n)
		}
		b.put(row("healthy", "beside", 1, b.begin), row(own, "beside", 1, b.begin))
		synctest.Wait()
		if !b.handedOver("healthy/beside/1 @0s") || !b.handedOver("own/beside/1 @0s") {
			t.Error("a healthy destination waits")
		}
		b.after(10 * timeout)
		synctest.Wait()
		if n := b.atWork(); n > servers {
			t.Errorf("%d rows are at work for %d silent servers", n, servers)
		}
	})
}

// A server runs one row until it answers, and up to eight after that. A refusal is an answer.
func TestFirstAnswer(t *testing.T) {
	for _, outcome := range []error{nil, mimiport.Errorf("send", mimiport.KindForbidden, "the peer refuses")} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, func(_ context.Context, row storage.Row) error {
				<-time.After(time.Second)
				if row.Queue == "00" {
					return outcome
				}
				return nil
			})
			for q := range 20 {
				b.put(row("b", fmt.Sprintf("%02d", q), 1, b.begin))
			}
			synctest.Wait()
			if n := b.atWork(); n != 1 {
				t.Fatalf("%d rows are at work before the first answer", n)
			}
			b.after(time.Second)
			synctest.Wait()
			if n := b.atWork(); n != 8 {
				t.Fatalf("%d rows are at work after the first answer", n)
			}
		})
	}
}

// TestBackground: tasks in the background, however many and slow, have two places, and announcements have one. They
// delay neither each other nor own work nor delivery, and are not delayed by them.
func TestBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(ctx context.Context, row storage.Row) error {
			select {
			case <-ctx.Done():
			case <-time.After(time.Minute):
			}
			return nil
		})
		for i := range 100 {
			b.put(row(storage.Background, fmt.Sprint("room", i), 1, b.begin))
			b.put(row(storage.Announcing, fmt.Sprint("move", i), 1, b.begin))
			b.put(row(own, fmt.Sprint("own", i), 1, b.begin))
			b.put(row("silent", fmt.Sprint("group", i), 1, b.begin))
		}
		b.after(30 * time.Second)
		b.mu.Lock()
		defer b.mu.Unlock()
		for destination, want := range map[string]int{
			storage.Background: 2, storage.Announcing: 1, own: 16, "silent": 1,
		} {
			if got := b.running[destination]; got != want {
				t.Errorf("%d rows of %s are at work, want %d", got, destination, want)
			}
		}
	})
}
