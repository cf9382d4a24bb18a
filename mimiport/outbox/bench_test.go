package outbox_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/outbox"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

// The benchmarks compare two ways in one run. "one" is the way of earlier versions: a row for each message and server,
// which travels and is deleted by itself. "batch" is the present way.
var ways = []string{"one", "batch"}

// asRows is a store that stores a row for each server in the place of a FanOut.
type asRows struct{ storage.Store }

func (s asRows) Apply(ctx context.Context, c *storage.Change) error {
	alike := *c
	alike.FanOuts = nil
	for i := range c.FanOuts {
		for _, server := range c.FanOuts[i].Servers {
			alike.Rows = append(alike.Rows, c.FanOuts[i].Row(server))
		}
	}
	return s.Store.Apply(ctx, &alike)
}

// wayOf returns a store that goes one way.
func wayOf(way string, store storage.Store) storage.Store {
	if way == "one" {
		return asRows{store}
	}
	return store
}

// worker returns a worker that goes one way.
func worker(way string, store storage.Store, handler outbox.Handler) *outbox.Worker {
	w := outbox.New(store, handler, []string{own, host}, time.Now, func() float64 { return 0 },
		slog.New(slog.DiscardHandler))
	if way == "one" {
		outbox.SetBatch(w, 1)
	}
	return w
}

// databases are the durable stores, and how many bytes each has written so far.
var databases = []struct {
	name string
	open func(*testing.B) (storage.Store, func() int64)
}{
	{"sqlite", func(b *testing.B) (storage.Store, func() int64) {
		store, err := sqlite.Open(b.Context(), "file:"+filepath.Join(b.TempDir(), "mimi.db"))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { store.Close() })
		return store, func() int64 { return ask(b, writtenByProcess) }
	}},
	{"postgres", func(b *testing.B) (storage.Store, func() int64) {
		database := pgtest.Start(b).Database(b)
		store, err := postgres.Open(b.Context(), database, postgres.Pool{MaxOpen: 10, MaxIdle: 10})
		if err != nil {
			b.Fatal(err)
		}
		db, err := sql.Open("postgres", database)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { store.Close(); db.Close() })
		return store, func() int64 {
			return ask(b, func() (written int64, err error) {
				err = db.QueryRow("SELECT pg_current_wal_lsn() - '0/0'").Scan(&written)
				return written, err
			})
		}
	}},
}

func ask(b *testing.B, f func() (int64, error)) int64 {
	n, err := f()
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// writtenByProcess returns the bytes that this process has written.
func writtenByProcess() (written int64, err error) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscanf(string(text[bytes.Index(text, []byte("wchar:")):]), "wchar: %d", &written)
	return written, err
}

// onWays runs a benchmark in each way.
func onWays(b *testing.B, run func(b *testing.B, way string)) {
	for _, way := range ways {
		b.Run("way="+way, func(b *testing.B) { run(b, way) })
	}
}

// onDatabases runs a benchmark in each way on each database.
func onDatabases(b *testing.B, run func(b *testing.B, way string, store storage.Store, written func() int64)) {
	for _, database := range databases {
		b.Run(database.name, func(b *testing.B) {
			onWays(b, func(b *testing.B, way string) {
				raw, written := database.open(b)
				run(b, way, wayOf(way, raw), written)
			})
		})
	}
}

// BenchmarkWritten prints the bytes that a store writes for the delivery of one message to a thousand servers.
func BenchmarkWritten(b *testing.B) {
	onDatabases(b, func(b *testing.B, way string, store storage.Store, written func() int64) {
		w := worker(way, store, newPost(0))
		defer start(b, w)()
		names, seq := servers(1000), uint64(0)
		deliver := func() {
			seq++
			put(b, store, names, seq)
			w.Wake()
			until(b, func() bool { return delivered(b, store) })
		}
		deliver() // afterwards all servers have answered
		before := written()
		for b.Loop() {
			deliver()
		}
		b.ReportMetric(float64(written()-before)/float64(b.N), "B/message")
	})
}

func put(b *testing.B, store storage.Store, names []string, seq uint64) {
	err := store.Apply(b.Context(), &storage.Change{FanOuts: []storage.FanOut{
		{GroupKey: group("g"), Seq: seq, At: time.Now(), Servers: names},
	}})
	if err != nil {
		b.Fatal(err)
	}
}

// delivered reports whether a store has nothing to deliver.
func delivered(b *testing.B, store storage.Store) bool {
	waiting, err := store.Waiting(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	rows, next, err := store.Due(b.Context(), time.Now(), 1)
	if err != nil {
		b.Fatal(err)
	}
	return len(waiting)+len(rows) == 0 && next.IsZero()
}

// until waits for a condition.
func until(b *testing.B, condition func() bool) {
	for !condition() {
		select {
		case <-b.Context().Done():
			b.Fatal(b.Context().Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// start runs a worker. stop ends it and waits for it.
func start(b *testing.B, w *outbox.Worker) (stop func()) {
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// BenchmarkSubmit prints how long it takes until a message to ten servers is accepted, and one to a thousand.
func BenchmarkSubmit(b *testing.B) {
	const messages = 200
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprintf("servers=%d", n), func(b *testing.B) {
			onDatabases(b, func(b *testing.B, _ string, store storage.Store, _ func() int64) {
				c := newCrowd(b, store, new(internet), n)
				var took []time.Duration
				for b.Loop() {
					for range messages {
						begin := time.Now()
						c.say(b)
						took = append(took, time.Since(begin))
					}
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			})
		})
	}
}

// BenchmarkLink prints how many messages of one group a second reach a server that is 200 ms away.
func BenchmarkLink(b *testing.B) {
	onWays(b, func(b *testing.B, way string) {
		for b.Loop() {
			net := &internet{answer: func(string) time.Duration { return 200 * time.Millisecond }}
			b.ReportMetric(net.rate(b, way, 2, 2000, 3*time.Second), "messages/s")
		}
	})
}

// BenchmarkUnwell prints how many messages a second reach the healthy ones of a thousand servers: once with all
// healthy, and once with 50 that hang and 50 that take five seconds. A group sends twenty messages a second to all.
func BenchmarkUnwell(b *testing.B) {
	const span = 15 * time.Second
	for _, unwell := range []int{0, 50} {
		b.Run(fmt.Sprintf("unwell=%d", unwell), func(b *testing.B) {
			onWays(b, func(b *testing.B, way string) {
				for b.Loop() {
					net := &internet{answer: func(server string) time.Duration {
						switch n := number(server); {
						case n == 0 || n > 2*unwell:
							return 20 * time.Millisecond
						case n > unwell:
							return 5 * time.Second
						}
						return time.Hour
					}}
					b.ReportMetric(net.rate(b, way, 1000, 20*int(span.Seconds()), span), "deliveries/s")
				}
			})
		})
	}
}

// internet plays the servers of a crowd. It counts the messages that healthy servers get.
type internet struct {
	answer func(server string) time.Duration // after which a server answers; nil is at once
	count  atomic.Int64
}

func (n *internet) DoHTTPRequest(ctx context.Context, r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	after := time.Duration(0)
	if n.answer != nil {
		after = n.answer(r.URL.Host)
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(after):
	}
	if after < time.Second {
		n.count.Add(int64(bytes.Count(body, []byte(`"m.direct_to_device"`))))
	}
	answer := io.NopCloser(strings.NewReader(`{"pdus":{}}`))
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: answer}, nil
}

// rate lets a group with a member on each of some servers say something, spread over the span. It returns how many
// messages a second healthy servers got. If there are few servers, all messages are there at the beginning.
func (n *internet) rate(b *testing.B, way string, members, messages int, span time.Duration) float64 {
	raw, _ := databases[0].open(b)
	store := wayOf(way, raw)
	c := newCrowd(b, store, n, members)
	w := worker(way, store, c.service)
	at := func(i int) time.Duration { return span * time.Duration(i) / time.Duration(messages) }
	if members < 10 {
		for range messages {
			c.say(b)
		}
		at = func(int) time.Duration { return span }
	}
	defer start(b, w)()
	c.service.SetWake(w.Wake)
	begin := time.Now()
	for i := 0; time.Since(begin) < span; i++ {
		if wait := at(i) - time.Since(begin); wait > 0 {
			<-time.After(wait)
		}
		if members >= 10 && i < messages {
			c.say(b)
		}
	}
	return float64(n.count.Load()) / time.Since(begin).Seconds()
}

// crowd is a group with a member on each of its servers. The first server is the host.
type crowd struct {
	service *delivery.Service
	id      []byte
	group   *mlstest.Group
}

// host is the server of the group.
const host = "server0.example"

func number(server string) (n int) {
	_, _ = fmt.Sscanf(server, "server%d.example", &n)
	return n
}

// newCrowd makes the group at a Delivery Service whose requests go to an internet.
func newCrowd(b *testing.B, store storage.Store, net *internet, members int) *crowd {
	var users []string
	for i := range members {
		users = append(users, fmt.Sprintf("@user:server%d.example", i))
	}
	service := serviceOn(store, net, users)
	creator := api.Caller{UserID: "@user:" + host, Server: host}
	reserved, err := service.ReserveGroup(b.Context(), creator, &api.ReserveGroupRequest{RoomID: deliverytest.RoomID})
	if err != nil {
		b.Fatal(err)
	}
	var identities [][]byte
	for _, user := range users {
		identities = append(identities, mlstest.Identity(user, "DEVICE"))
	}
	c := &crowd{service: service, id: reserved.GroupID}
	c.group = mlstest.New(mlstest.Options{GroupID: c.id, Members: identities})
	_, err = service.BindGroup(b.Context(), creator, c.id, &api.BindGroupRequest{
		Protocol: "mls10", GroupInfo: c.group.GroupInfo(), RatchetTree: c.group.RatchetTree(),
	})
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// say submits a message of 500 bytes.
func (c *crowd) say(b *testing.B) {
	creator := api.Caller{UserID: "@user:" + host, Server: host}
	_, err := c.service.Submit(b.Context(), creator, c.id, &api.SubmitRequest{Message: c.group.Application(nil, 500)})
	if err != nil {
		b.Fatal(err)
	}
}

func serviceOn(store storage.Store, net *internet, users []string) *delivery.Service {
	w := deliverytest.New(0, map[string]storage.Store{host: store})
	w.Room.Join(users...)
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	identity := func(server string) (*fclient.SigningIdentity, error) {
		return &fclient.SigningIdentity{ServerName: spec.ServerName(server), KeyID: "ed25519:a", PrivateKey: key}, nil
	}
	w.RestartWith(host, func(d *delivery.Deps) {
		d.Now, d.Sender = time.Now, &federation.Sender{
			Client:  federation.NewClient(identity, net, time.Now),
			IsLocal: func(server string) bool { return server == host },
			Local:   nobody{},
		}
	})
	return w.Service(host)
}

// nobody takes events for local devices.
type nobody struct{}

func (nobody) ToDevice(_ context.Context, _, _ string, events []api.DeviceEvent) (int, error) {
	return len(events), nil
}
