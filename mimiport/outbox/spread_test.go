package outbox_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/outbox"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// post delivers messages to servers, as a handler. A request takes a round trip.
type post struct {
	trip   time.Duration
	behave func(ctx context.Context, server string, seq uint64) error // nil lets everything arrive

	mu       sync.Mutex
	got      map[string][]uint64 // the numbers that a server got, in order
	requests map[string][]int    // the messages in each request
}

func newPost(trip time.Duration) *post {
	return &post{trip: trip, got: make(map[string][]uint64), requests: make(map[string][]int)}
}

func (p *post) Do(context.Context, storage.Row) error { return nil }

func (p *post) Deliver(ctx context.Context, rows []storage.Row) (done int, err error) {
	server := rows[0].Destination
	p.mu.Lock()
	p.requests[server] = append(p.requests[server], len(rows))
	p.mu.Unlock()
	select {
	case <-time.After(p.trip):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for i := range rows {
		if p.behave != nil {
			if err := p.behave(ctx, server, rows[i].Seq); err != nil {
				return i, err
			}
		}
		p.mu.Lock()
		p.got[server] = append(p.got[server], rows[i].Seq)
		p.mu.Unlock()
	}
	return len(rows), nil
}

// received returns the numbers that a server got.
func (p *post) received(server string) []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got[server])
}

// asked returns the numbers of messages in the requests to a server.
func (p *post) asked(server string) []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests[server])
}

// office is a store that counts, and that a crash cuts off.
type office struct {
	storage.Store
	crashed atomic.Bool
	applied atomic.Int64 // changes
	rows    atomic.Int64 // written rows
}

func newOffice() *office { return &office{Store: memory.New()} }

func (o *office) Apply(ctx context.Context, c *storage.Change) error {
	if o.crashed.Load() {
		return errDown
	}
	o.applied.Add(1)
	o.rows.Add(int64(len(c.Rows)))
	return o.Store.Apply(ctx, c)
}

func (o *office) Retry(ctx context.Context, key storage.RowKey, attempts int, due time.Time) error {
	if o.crashed.Load() {
		return errDown
	}
	return o.Store.Retry(ctx, key, attempts, due)
}

// group is the key of the group with a name.
func group(name string) storage.GroupKey { return storage.GroupKey{ID: []byte(name), Term: 1} }

// submit stores messages of a group for servers.
func submit(t *testing.T, store storage.Store, name string, servers []string, from, to uint64) {
	t.Helper()
	change := new(storage.Change)
	for seq := from; seq <= to; seq++ {
		change.FanOuts = append(change.FanOuts,
			storage.FanOut{GroupKey: group(name), Seq: seq, At: time.Now(), Servers: servers})
	}
	if err := store.Apply(t.Context(), change); err != nil {
		t.Fatal(err)
	}
}

// turnIntoRows settles the messages of a group up to a number, and gives a server a row for each.
func turnIntoRows(t *testing.T, store storage.Store, name, server string, to uint64) {
	t.Helper()
	change := &storage.Change{Settled: []storage.Position{{GroupKey: group(name), Seq: to}}}
	for _, seq := range numbers(1, to) {
		f := storage.FanOut{GroupKey: group(name), Seq: seq, At: time.Now()}
		change.Rows = append(change.Rows, f.Row(server))
	}
	if err := store.Apply(t.Context(), change); err != nil {
		t.Fatal(err)
	}
}

// work runs a worker. stop ends it and waits for it.
func work(t *testing.T, store storage.Store, p outbox.Handler) (worker *outbox.Worker, stop func()) {
	worker = outbox.New(store, p, []string{own}, time.Now, func() float64 { return 0 }, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		worker.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return worker, stop
}

// numbers lists the numbers from one to another.
func numbers(from, to uint64) (list []uint64) {
	for n := from; n <= to; n++ {
		list = append(list, n)
	}
	return list
}

// requireGot fails unless a server got exactly these messages in this order.
func requireGot(t *testing.T, p *post, server string, want []uint64) {
	t.Helper()
	if got := p.received(server); !slices.Equal(got, want) {
		t.Fatalf("%s got %v, want %v", server, got, want)
	}
}

// requireEmpty fails unless a store has neither rows nor FanOuts.
func requireEmpty(t *testing.T, store storage.Store) {
	t.Helper()
	waiting, err := store.Waiting(t.Context())
	if err != nil || len(waiting) > 0 {
		t.Fatalf("still on their way: %v, %v", waiting, err)
	}
	rows, _, err := store.Due(t.Context(), time.Now().AddDate(1, 0, 0), 100)
	if err != nil || len(rows) > 0 {
		t.Fatalf("still in the store: %v, %v", rows, err)
	}
}

func servers(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("s%04d", i))
	}
	return names
}

// Messages for many servers reach each of them in order and once. No server gets a row of its own in the store.
func TestSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, p := newOffice(), newPost(200*time.Millisecond)
		worker, _ := work(t, store, p)
		names := append(servers(100), own)
		slices.Sort(names)
		submit(t, store, "g", names, 1, 1)
		worker.Wake()
		<-time.After(5 * time.Second)
		submit(t, store, "g", names, 2, 40)
		worker.Wake()
		<-time.After(5 * time.Second)
		for _, name := range names {
			requireGot(t, p, name, numbers(1, 40))
		}
		requireEmpty(t, store)
		if n := store.rows.Load(); n > 0 {
			t.Errorf("%d rows were written", n)
		}
		if n := store.applied.Load(); n > 8 {
			t.Errorf("%d changes were written for two submissions to %d servers", n, len(names))
		}
	})
}

// Up to a hundred messages of a queue travel in one request, whether they are rows or not.
func TestBatches(t *testing.T) {
	for _, rows := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store, p := newOffice(), newPost(200*time.Millisecond)
			submit(t, store, "g", []string{"b"}, 1, 250)
			if rows {
				turnIntoRows(t, store, "g", "b", 250)
			}
			work(t, store, p)
			<-time.After(time.Second)
			requireGot(t, p, "b", numbers(1, 250))
			if got := p.asked("b"); !slices.Equal(got, []int{100, 100, 50}) {
				t.Errorf("requests of %v messages", got)
			}
			requireEmpty(t, store)
		})
	}
}

// A message that a server refuses for good keeps others up for some minutes, and none before it.
func TestRefusedForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, p := newOffice(), newPost(200*time.Millisecond)
		tries := 0
		p.behave = func(_ context.Context, _ string, seq uint64) error {
			if seq == 57 {
				tries++
				return mimiport.Errorf("send", mimiport.KindInvalid, "the server refuses it")
			}
			return nil
		}
		submit(t, store, "g", []string{"b"}, 1, 120)
		work(t, store, p)
		<-time.After(time.Second)
		requireGot(t, p, "b", numbers(1, 56))
		<-time.After(5 * time.Minute)
		requireGot(t, p, "b", append(numbers(1, 56), numbers(58, 120)...))
		requireEmpty(t, store)
		if tries != 8 {
			t.Errorf("the message was tried %d times", tries)
		}
	})
}

// A handler that fails once, and says all the same that it did everything, ends no worker and loses no message. The
// messages are FanOuts, or rows of a server that was behind.
func TestDoneWithError(t *testing.T) {
	for _, rows := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store, p := newOffice(), newPost(200*time.Millisecond)
			submit(t, store, "g", []string{"b"}, 1, 3)
			if rows {
				turnIntoRows(t, store, "g", "b", 3)
			}
			work(t, store, &boaster{post: p})
			<-time.After(time.Minute)
			if got := p.received("b"); len(got) == 0 || got[len(got)-1] != 3 {
				t.Errorf("the server got %v", got)
			}
			requireEmpty(t, store)
		})
	}
}

// boaster fails at first, and says that it did everything.
type boaster struct {
	*post
	failed atomic.Bool
}

func (b *boaster) Deliver(ctx context.Context, rows []storage.Row) (done int, err error) {
	if !b.failed.Swap(true) {
		return len(rows), errDown
	}
	return b.post.Deliver(ctx, rows)
}

// A server that is out of reach loses nothing, however long that takes.
func TestUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, p := newOffice(), newPost(200*time.Millisecond)
		var up atomic.Bool
		p.behave = func(_ context.Context, server string, _ uint64) error {
			if server == "down" && !up.Load() {
				return mimiport.Errorf("send", mimiport.KindPeer, "no answer")
			}
			return nil
		}
		worker, _ := work(t, store, p)
		for seq := uint64(1); seq <= 300; seq++ {
			submit(t, store, "g", []string{"down", "up"}, seq, seq)
			worker.Wake()
			<-time.After(time.Minute)
			requireGot(t, p, "up", numbers(1, seq))
		}
		up.Store(true)
		<-time.After(6 * time.Minute)
		requireGot(t, p, "down", numbers(1, 300))
		submit(t, store, "g", []string{"down", "up"}, 301, 301)
		worker.Wake()
		<-time.After(time.Second)
		requireGot(t, p, "down", numbers(1, 301))
		requireEmpty(t, store)
	})
}

// A server that hangs delays no other server of the group, and gets everything in order later.
func TestHangingServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, p := newOffice(), newPost(10*time.Millisecond)
		var answers atomic.Bool
		p.behave = func(ctx context.Context, server string, _ uint64) error {
			if server == "z" && !answers.Load() {
				select {
				case <-time.After(20 * time.Second):
				case <-ctx.Done():
				}
				return mimiport.Errorf("send", mimiport.KindPeer, "no answer")
			}
			return nil
		}
		worker, _ := work(t, store, p)
		const rate, seconds = 400, 30 // more than the group may have on its way while it waits for a request to z
		for second := range uint64(seconds) {
			submit(t, store, "g", []string{"a", "z"}, rate*second+1, rate*(second+1))
			worker.Wake()
			<-time.After(time.Second)
			if got, want := len(p.received("a")), rate*int(max(second, 2)-2); got < want {
				t.Fatalf("after %d s the healthy server got %d messages, want at least %d", second+1, got, want)
			}
		}
		answers.Store(true)
		<-time.After(6 * time.Minute)
		requireGot(t, p, "a", numbers(1, rate*seconds))
		requireGot(t, p, "z", numbers(1, rate*seconds))
		requireEmpty(t, store)
	})
}

// A server that does not answer gets requests as rarely as Backoff says, however many messages come for it.
func TestSpreadBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, p := newOffice(), newPost(time.Millisecond)
		p.behave = func(_ context.Context, server string, _ uint64) error {
			switch server {
			case "down":
				return mimiport.Errorf("send", mimiport.KindPeer, "no answer")
			case "slow":
				<-time.After(100 * time.Millisecond)
			}
			return nil
		}
		worker, _ := work(t, store, p)
		for seq := range uint64(600) {
			submit(t, store, "g", []string{"down", "slow", "up"}, seq+1, seq+1)
			worker.Wake()
			<-time.After(100 * time.Millisecond)
		}
		if n := len(p.asked("down")); n > 6 { // as after 0, 1, 3, 7, 15 and 31 seconds
			t.Errorf("%d requests within a minute", n)
		}
		requireGot(t, p, "up", numbers(1, 600))
	})
}

// While a request to a late server goes on, the server has a row in the store. Another process does not do it.
func TestLateServerHasNoDueRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, p := newOffice(), newPost(25*time.Second)
		submit(t, store, "g", []string{"slow"}, 1, 1)
		work(t, store, p)
		<-time.After(15 * time.Second)
		rows, next, err := store.Due(t.Context(), time.Now(), 10)
		if err != nil || len(rows) > 0 || time.Until(next) < 10*time.Second {
			t.Errorf("after 15 s these are due: %v, and the next at %v, %v", rows, next, err)
		}
		<-time.After(15 * time.Second)
		requireGot(t, p, "slow", []uint64{1})
		requireEmpty(t, store)
	})
}

// Rows of an earlier version of this program, which wrote one for each server, precede everything new.
func TestRowsOfEarlierVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, p := newOffice(), newPost(200*time.Millisecond)
		change := new(storage.Change)
		for _, seq := range numbers(1, 3) {
			f := storage.FanOut{GroupKey: group("g"), Seq: seq, At: time.Now().Add(time.Duration(seq) * time.Second)}
			change.Rows = append(change.Rows, f.Row("b"))
		}
		if err := store.Apply(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		submit(t, store, "g", []string{"a", "b"}, 4, 6)
		work(t, store, p)
		<-time.After(10 * time.Second)
		requireGot(t, p, "a", numbers(4, 6))
		requireGot(t, p, "b", numbers(1, 6))
		requireEmpty(t, store)
	})
}

// Servers fail, hang and refuse, and the process crashes or stops, all at random. In the end each server got each
// message of each group. No message came before the one that precedes it. Without a crash none came twice.
func TestSpreadAtRandom(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) { spreadAtRandom(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func spreadAtRandom(t *testing.T, random *rand.Rand) {
	var mu sync.Mutex // guards random
	chance := func(n int) bool {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n) == 0
	}
	store, p := newOffice(), newPost(50*time.Millisecond)
	var calm atomic.Bool
	p.behave = func(ctx context.Context, server string, _ uint64) error {
		switch {
		case calm.Load():
		case server == "s0000" && chance(3), chance(200):
			return mimiport.Errorf("send", mimiport.KindPeer, "no answer")
		case chance(500):
			select {
			case <-time.After(15 * time.Second):
			case <-ctx.Done():
			}
			return mimiport.Errorf("send", mimiport.KindPeer, "too late")
		case chance(500):
			return mimiport.Errorf("send", mimiport.KindInvalid, "refused once")
		}
		return nil
	}
	names, last, crashes := servers(5), uint64(0), 0
	pace := rand.New(rand.NewPCG(random.Uint64(), 1))
	worker, stop := work(t, store, p)
	for range 60 {
		more := last + uint64(pace.IntN(30))
		submit(t, store, "g", names, last+1, more)
		last = more
		worker.Wake()
		<-time.After(time.Duration(pace.IntN(3000)) * time.Millisecond)
		if !chance(10) {
			continue
		}
		if chance(2) {
			store.crashed.Store(true)
			crashes++
		}
		stop()
		store.crashed.Store(false)
		worker, stop = work(t, store, p)
	}
	calm.Store(true)
	<-time.After(10 * time.Minute)
	requireEmpty(t, store)
	for _, name := range names {
		highest, twice := uint64(0), 0
		for _, seq := range p.received(name) {
			switch {
			case seq > highest+1:
				t.Fatalf("%s got %d after %d", name, seq, highest)
			case seq <= highest:
				twice++
			}
			highest = max(highest, seq)
		}
		if highest != last {
			t.Fatalf("%s got %d of %d messages", name, highest, last)
		}
		if crashes == 0 && twice > 0 {
			t.Fatalf("%s got %d messages twice without a crash", name, twice)
		}
	}
}

// rateBeside returns how many messages a second reach the healthy ones of 300 servers, which are 100 ms away, while
// some servers hang and as many take five seconds. A group sends ten messages a second to all of them.
func rateBeside(t *testing.T, way string, unwell int) float64 {
	const seconds = 10
	var count atomic.Int64
	synctest.Test(t, func(t *testing.T) {
		p := newPost(0)
		names := servers(300)
		p.behave = func(ctx context.Context, server string, _ uint64) error {
			switch i, _ := slices.BinarySearch(names, server); {
			case i >= 2*unwell:
				count.Add(1)
			case i >= unwell:
			default:
				return mimiport.Errorf("send", mimiport.KindPeer, "no answer")
			}
			return nil
		}
		handler := distant{p, func(server string) time.Duration {
			switch i, _ := slices.BinarySearch(names, server); {
			case i >= 2*unwell:
				return 100 * time.Millisecond
			case i >= unwell:
				return 5 * time.Second
			}
			return timeout
		}}
		store := wayOf(way, memory.New())
		w := worker(way, store, handler)
		ctx, cancel := context.WithTimeout(t.Context(), seconds*time.Second)
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.Run(ctx)
		}()
		for seq := uint64(1); ctx.Err() == nil; seq++ {
			submit(t, store, "g", names, seq, seq)
			w.Wake()
			<-time.After(100 * time.Millisecond)
		}
		<-done
	})
	return float64(count.Load()) / seconds
}

// distant is a post whose servers are at different distances.
type distant struct {
	*post
	trip func(server string) time.Duration
}

func (d distant) Deliver(ctx context.Context, rows []storage.Row) (done int, err error) {
	select {
	case <-time.After(d.trip(rows[0].Destination)):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return d.post.Deliver(ctx, rows)
}
