package adversary

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
)

// logPeak logs a server's peak memory, and returns it in bytes.
func logPeak(t *testing.T, s *harness.Server, when string) int64 {
	t.Helper()
	peak, err := s.PeakMemory()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("peak memory of %s %s: %d MiB", s.Name, when, peak>>20)
	return peak
}

// maxHeld is the most memory that a server may use under idle uploads, in bytes.
const maxHeld = 300 << 20

// idleUploads: alice and the attacker's server begin 200 uploads each, and send none of the bodies.
func idleUploads(t *testing.T, g *group) {
	ctx, cancel := context.WithCancel(t.Context())
	logPeak(t, g.a, "before the uploads")
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	t.Cleanup(cancel)
	var reserved api.ReserveGroupResponse
	g.must(t, g.alice, http.MethodPost, "/groups", &api.ReserveGroupRequest{RoomID: g.room}, &reserved)
	h := &group{arena: g.arena, id: reserved.GroupID}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(transport.CloseIdleConnections)
	var begun, refused atomic.Int64
	var answered sync.WaitGroup
	for i := range 400 {
		var r *http.Request
		var err error
		client := &http.Client{Transport: transport}
		if i%2 == 0 {
			r, err = g.alice.Request(ctx, http.MethodPut, at(g.a.Name, h.path("")), []byte("{}"))
		} else {
			r = g.request(t, g.c.SigningIdentity, g.a, http.MethodPut, h.path("")+as(g.mallory), nil).WithContext(ctx)
			client = g.http
		}
		if err != nil {
			t.Fatal(err)
		}
		answered.Add(1)
		once := sync.OnceFunc(answered.Done)
		trace := &httptrace.ClientTrace{Got100Continue: func() { begun.Add(1); once() }}
		r = r.WithContext(httptrace.WithClientTrace(ctx, trace))
		body, nothing := io.Pipe()
		context.AfterFunc(ctx, func() { nothing.Close() })
		r.Body, r.ContentLength = body, 64<<20
		r.Header.Set("Expect", "100-continue")
		all.Go(func() {
			defer once()
			resp, err := client.Do(r)
			if err == nil {
				refused.Add(1)
				resp.Body.Close()
			}
		})
	}
	answered.Wait()
	peak := logPeak(t, g.a, fmt.Sprintf("under %d idle uploads of 64 MiB, %d refused", begun.Load(), refused.Load()))
	if begun.Load() < 200 || peak > maxHeld {
		t.Errorf("the server used %d MiB under %d uploads", peak>>20, begun.Load())
	}
	g.say(t, g.bob) // while the uploads are open
}

// delivered sends n messages to bob through his own server, and returns the median and the longest delivery time.
func (g *group) delivered(t *testing.T, n int) (median, most time.Duration) {
	t.Helper()
	since, err := g.bob.Await(harness.Within(t), "", func(*harness.Sync) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	var took []time.Duration
	for range n {
		message := g.mls.Application(nil, 32)
		start := time.Now()
		g.must(t, g.bob, http.MethodPost, g.path("/messages"), &api.SubmitRequest{Message: message}, nil)
		since, err = g.bob.Await(harness.Within(t), since, func(s *harness.Sync) bool {
			return slices.ContainsFunc(s.ToDevice.Events, func(e harness.Event) bool {
				var m api.FanOut
				return json.Unmarshal(e.Content, &m) == nil && string(m.Message) == string(message)
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took[n/2], took[n-1]
}

// silentHosts gives bob's server work for servers that never answer, and measures the delay of bob's messages.
func silentHosts(t *testing.T, g *group) {
	g.move(t, g.bob, bobLeaf, g.b)
	median, most := g.delivered(t, 10)
	t.Logf("local delivery alone: median %d ms, at most %d ms", median.Milliseconds(), most.Milliseconds())

	var hanging atomic.Int64
	g.c.lies(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/migrations/") {
			return false
		}
		hanging.Add(1)
		<-r.Context().Done()
		return true
	})
	const staged = 12
	for range staged {
		g.newHoax(t, g.room, nil).stage(t, time.Now())
	}
	dialled := g.owe(t, g.b, 1000)
	median, most = g.delivered(t, 30)
	t.Logf("local delivery beside 1,000 silent servers and %d sources that hang: median %d ms, at most %d ms",
		staged, median.Milliseconds(), most.Milliseconds())
	if hanging.Load() == 0 || dialled.Load() == 0 {
		t.Errorf("bob's server asked %d sources and dialled %d silent servers", hanging.Load(), dialled.Load())
	}
}

// owe stores a row for each of n silent servers, and counts the connections to them.
func (g *group) owe(t *testing.T, s *harness.Server, n int) (dialled *counter) {
	t.Helper()
	store, err := engine.Open(t.Context(), s.Store(), postgres.Pool{MaxOpen: 1, MaxIdle: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	change := &storage.Change{}
	dialled = new(counter)
	for range n {
		_, port, err := net.SplitHostPort(silent(t, dialled).Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		change.Rows = append(change.Rows, storage.Row{
			Destination: net.JoinHostPort("localhost", port), Queue: "lineage", Order: 1, Kind: migration.RowLineage,
			GroupID: g.id, Term: g.term, Due: time.Now().Add(-time.Hour),
		})
	}
	if err := store.Apply(harness.Within(t), change); err != nil {
		t.Fatal(err)
	}
	return dialled
}

// quotaRaces: a user of bob's server asks for many offers and reservations at the same time.
func quotaRaces(t *testing.T, g *group) {
	greedy := harness.RegisterUser(t, g.b, "greedy"+strings.ToLower(rand.Text()[:6]), false)
	harness.Admit(t, g.bob, g.room, greedy)
	if err := g.bob.SetPowerLevel(harness.Within(t), g.room, greedy.ID, 100); err != nil {
		t.Fatal(err)
	}
	atOnce := func(n int, ask func(i int) error) int64 {
		var accepted atomic.Int64
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				if ask(i) == nil {
					accepted.Add(1)
				}
			})
		}
		all.Wait()
		return accepted.Load()
	}
	start := time.Now()
	offers := atOnce(300, func(i int) error {
		_, err := askOffer(t, greedy, g.b.Name, g.a.Name, g.room, []byte(fmt.Sprint("group", i)), 0)
		return err
	})
	reservations := atOnce(400, func(int) error {
		in := &api.ReserveGroupRequest{RoomID: g.room}
		return greedy.Do(t.Context(), http.MethodPost, at(g.b.Name, "/groups"), in, nil)
	})
	t.Logf("%d of 300 offers, %d of 400 reservations in %d ms", offers, reservations, time.Since(start).Milliseconds())
	if offers > 20 || reservations > 100 {
		t.Errorf("%d offers and %d reservations were accepted", offers, reservations)
	}
}
