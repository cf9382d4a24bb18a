package delivery_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/cpu"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/outbox"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

// engines are the databases of a server, each with its durable settings.
var engines = []struct {
	name string
	open func(testing.TB) (storage.Store, error)
}{
	{"sqlite", func(tb testing.TB) (storage.Store, error) {
		return sqlite.Open(tb.Context(), "file:"+filepath.Join(tb.TempDir(), "mimi.db"))
	}},
	{"postgres", func(tb testing.TB) (storage.Store, error) {
		return postgres.Open(tb.Context(), pgtest.Start(tb).Database(tb), postgres.Pool{MaxOpen: 10, MaxIdle: 10})
	}},
}

// onEngines runs a benchmark on a service with a fresh database of each kind.
func onEngines(b *testing.B, run func(*testing.B, *delivery.Service)) {
	for _, engine := range engines {
		b.Run(engine.name, func(b *testing.B) {
			store, err := engine.open(b)
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { store.Close() })
			run(b, serviceOn(store))
		})
	}
}

// open has one room, which every user has joined.
type open struct{ delivery.Rooms }

func (open) Room(context.Context, string) (delivery.Room, error) { return everybody{}, nil }

func (open) LocalAccount(context.Context, string) (bool, error) { return true, nil }

// everybody is a room that every user has joined.
type everybody struct{ delivery.Room }

func (everybody) Standing(string) delivery.Standing {
	return delivery.Standing{Exists: true, Joined: true}
}

func (everybody) NotJoined([]string) []string { return nil }

func (everybody) Levels() *policy.Levels { return nil }

func (everybody) Denied([]string) []string { return nil }

func (everybody) InForce(string) json.RawMessage { return nil }

func (everybody) Current() bool { return true }

func serviceOn(store storage.Store) *delivery.Service {
	w := deliverytest.New(0, map[string]storage.Store{serverA: store})
	w.RestartWith(serverA, func(d *delivery.Deps) {
		d.Rooms, d.Now = open{}, time.Now
		d.Limits.MessageBytes, d.Limits.CacheBytes = 64<<20, 1<<30 // the server binds a group of 50,000 in one message
		d.DefaultPolicy = policy.Default()
		q := &d.DefaultPolicy.Quotas
		q.Groups, q.GroupsPerUser, q.GroupsPerRoom, q.GroupsPerUserInRoom = 0, 0, 0, 0
	})
	return w.Service(serverA)
}

// crowd is a group on a service. Its members are on a few servers. Its creator is leaf 0.
type crowd struct {
	service *delivery.Service
	id      []byte
	group   *mlstest.Group
}

// users returns the n users of a crowd. The first is local.
func users(n int) []string {
	const servers = 10
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("@user%d:%c.example", i, 'a'+i%servers)
	}
	return list
}

func newCrowd(tb testing.TB, service *delivery.Service, members int) *crowd {
	tb.Helper()
	creator := caller("@user0:a.example")
	reserved, err := service.ReserveGroup(tb.Context(), creator, &api.ReserveGroupRequest{RoomID: room})
	if err != nil {
		tb.Fatal(err)
	}
	c := &crowd{service: service, id: reserved.GroupID}
	var identities [][]byte
	for _, user := range users(members) {
		identities = append(identities, mlstest.Identity(user, "DEVICE"))
	}
	c.group = mlstest.New(mlstest.Options{GroupID: c.id, Members: identities, Populated: true})
	if _, err := service.BindGroup(tb.Context(), creator, c.id, &api.BindGroupRequest{
		Protocol: "mls10", GroupInfo: c.group.GroupInfo(), RatchetTree: c.group.RatchetTree(),
	}); err != nil {
		tb.Fatal(err)
	}
	return c
}

// next returns the request for a Commit with a full path. The members commit in turn.
func (c *crowd) next(i, members int) (api.Caller, *api.SubmitRequest) {
	leaf := i * 7919 % members
	commit := c.group.Commit(mlstest.CommitOptions{Sender: uint32(leaf), Path: true})
	c.group = commit.Next
	user := users(leaf + 1)[leaf]
	return caller(user), &api.SubmitRequest{Message: commit.Message, GroupInfo: commit.GroupInfo}
}

// BenchmarkCommit accepts Commits one after the other in groups of growing size. The server stores the fan-out of each
// Commit to ten servers.
func BenchmarkCommit(b *testing.B) {
	onEngines(b, func(b *testing.B, service *delivery.Service) {
		for _, members := range []int{100, 1_000, 10_000, 50_000} {
			b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
				c := newCrowd(b, service, members)
				from, warm := c.next(0, members)
				if _, err := service.Submit(b.Context(), from, c.id, warm); err != nil { // loads the group
					b.Fatal(err)
				}
				froms, reqs := make([]api.Caller, b.N), make([]*api.SubmitRequest, b.N)
				bytes := 0
				for i := range reqs {
					froms[i], reqs[i] = c.next(i+1, members)
					bytes += len(reqs[i].Message) + len(reqs[i].GroupInfo)
				}
				took := make([]time.Duration, b.N)
				runtime.GC()
				used := cpu.Time() // without that of a PostgreSQL server
				b.ReportAllocs()
				b.ResetTimer()
				for i := range reqs {
					begin := time.Now()
					if _, err := service.Submit(b.Context(), froms[i], c.id, reqs[i]); err != nil {
						b.Fatal(err)
					}
					took[i] = time.Since(begin)
				}
				b.StopTimer()
				slices.Sort(took)
				b.ReportMetric(float64(took[b.N/2].Microseconds()), "p50-µs")
				b.ReportMetric(float64(took[b.N*99/100].Microseconds()), "p99-µs")
				b.ReportMetric(float64((cpu.Time()-used).Microseconds())/float64(b.N), "cpu-µs/op")
				b.ReportMetric(float64(bytes)/float64(b.N), "written-B/op")
			})
		}
	})
}

// BenchmarkGroups accepts Commits in 1,000 groups of ten members, 64 requests at a time. One operation is one Commit in
// each group.
func BenchmarkGroups(b *testing.B) {
	const groups, members, atOnce = 1_000, 10, 64
	type request struct {
		id   []byte
		from api.Caller
		*api.SubmitRequest
	}
	onEngines(b, func(b *testing.B, service *delivery.Service) {
		requests := make([][]request, groups) // of each group, in order
		for i := range requests {
			c := newCrowd(b, service, members)
			for n := range b.N {
				from, req := c.next(n, members)
				requests[i] = append(requests[i], request{c.id, from, req})
			}
		}
		runtime.GC()
		var wait sync.WaitGroup
		b.ResetTimer()
		for worker := range atOnce {
			wait.Go(func() {
				for n := range b.N {
					for i := worker; i < groups; i += atOnce {
						if _, err := service.Submit(b.Context(), requests[i][n].from, requests[i][n].id,
							requests[i][n].SubmitRequest); err != nil {
							b.Error(err)
						}
					}
				}
			})
		}
		wait.Wait()
		b.ReportMetric(float64(b.N*groups)/b.Elapsed().Seconds(), "Commits/s")
	})
}

// BenchmarkLeave tells the server that a user has left a room of 10,000 groups. It reports how long the news takes,
// compared with a row for each group, and how long the server needs to check a group, which it has not in memory.
func BenchmarkLeave(b *testing.B) {
	const groups, members = 10_000, 10
	onEngines(b, func(b *testing.B, service *delivery.Service) {
		for range groups {
			newCrowd(b, service, members)
		}
		var each, news, sweep time.Duration
		for round := 0; b.Loop(); round++ {
			begin := time.Now()
			for i := range groups {
				row := storage.Row{Destination: serverA, Queue: fmt.Sprint("expel/", round, "/", i), Order: 1}
				row.Due = begin.Add(time.Hour)
				if err := service.Store.Apply(b.Context(), &storage.Change{Rows: []storage.Row{row}}); err != nil {
					b.Fatal(err)
				}
			}
			each += time.Since(begin)
			begin = time.Now()
			if err := service.RoomChanged(b.Context(), room); err != nil {
				b.Fatal(err)
			}
			news += time.Since(begin)
			begin = time.Now()
			sweepAll(b, delivery.New(service.Deps))
			sweep += time.Since(begin)
		}
		b.ReportMetric(float64(each.Microseconds())/float64(b.N), "µs-by-group")
		b.ReportMetric(float64(news.Microseconds())/float64(b.N), "µs-by-room")
		b.ReportMetric(float64(sweep.Microseconds())/float64(b.N*groups), "sweep-µs/group")
	})
}

// sweepAll does the rows for rooms, due or not.
func sweepAll(b *testing.B, service *delivery.Service) {
	for {
		rows, _, err := service.Store.Due(b.Context(), time.Now().Add(time.Minute), 1, []string{storage.Background})
		if err != nil {
			b.Fatal(err)
		}
		if len(rows) == 0 || rows[0].Destination != storage.Background {
			return
		}
		if err := service.Do(b.Context(), rows[0]); err != nil {
			b.Fatal(err)
		}
	}
}

// arrivals is the way to devices. It tells of each event for this server's own devices.
type arrivals struct {
	delivery.Sender
	arrived chan struct{}
}

func (a arrivals) ToDevice(_ context.Context, _, to string, events []api.DeviceEvent) (int, error) {
	if to == serverA {
		a.arrived <- struct{}{}
	}
	return len(events), nil
}

// sweeping is a service that knows whether it checks a room.
type sweeping struct {
	*delivery.Service
	now atomic.Int32
}

func (s *sweeping) Do(ctx context.Context, row storage.Row) error {
	if row.Kind == storage.RowSweep {
		s.now.Add(1)
		defer s.now.Add(-1)
	}
	return s.Service.Do(ctx, row)
}

// BenchmarkBesideSweep measures how long a message to this server's own user takes, from the request to the device,
// while nothing else happens, and while the server checks the 5,000 groups of a room that a user has left. None of them
// is in memory.
func BenchmarkBesideSweep(b *testing.B) {
	const groups, members = 5_000, 10
	onEngines(b, func(b *testing.B, service *delivery.Service) {
		for range groups {
			newCrowd(b, service, members)
		}
		arrived, deps := make(chan struct{}), service.Deps
		deps.Sender = arrivals{arrived: arrived}
		handler := &sweeping{Service: delivery.New(deps)}
		worker := outbox.New(deps.Store, handler, []string{serverA}, time.Now, rand.Float64, slog.New(slog.DiscardHandler))
		handler.SetWake(worker.Wake)
		ctx, stop := context.WithCancel(b.Context())
		var running sync.WaitGroup
		running.Go(func() { worker.Run(ctx) })
		c := newCrowd(b, handler.Service, members)
		var took [2][]time.Duration // alone, and beside a sweep
		for b.Loop() {
			if err := handler.RoomChanged(b.Context(), room); err != nil {
				b.Fatal(err)
			}
			for waits(b, deps.Store) {
				from, req := c.next(0, members)
				begin, beside := time.Now(), handler.now.Load()
				if _, err := handler.Submit(b.Context(), from, c.id, req); err != nil {
					b.Fatal(err)
				}
				<-arrived
				took[beside] = append(took[beside], time.Since(begin))
			}
		}
		stop()
		running.Wait()
		for i, name := range []string{"alone", "beside"} {
			slices.Sort(took[i])
			b.ReportMetric(float64(took[i][len(took[i])/2].Microseconds())/1000, "ms-"+name)
			b.ReportMetric(float64(took[i][len(took[i])*99/100].Microseconds())/1000, "p99-ms-"+name)
		}
		b.ReportMetric(float64(len(took[1])), "messages-beside")
	})
}

// waits reports whether a row for a room waits or is being done.
func waits(b *testing.B, store storage.Store) bool {
	rows, _, err := store.Due(b.Context(), time.Now().Add(time.Minute), 1, []string{storage.Background})
	if err != nil {
		b.Fatal(err)
	}
	return slices.ContainsFunc(rows, func(row storage.Row) bool { return row.Destination == storage.Background })
}

// BenchmarkColdLoad measures an answer for a group of 10,000 members that is not in memory.
func BenchmarkColdLoad(b *testing.B) {
	onEngines(b, func(b *testing.B, service *delivery.Service) {
		c := newCrowd(b, service, 10_000)
		for b.Loop() {
			cold := delivery.New(service.Deps)
			if _, err := cold.Group(b.Context(), caller("@user0:a.example"), c.id); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkIdle measures the heap that 10,000 loaded groups of ten members need.
func BenchmarkIdle(b *testing.B) {
	const groups, members = 10_000, 10
	service := serviceOn(memory.New())
	var crowds []*crowd
	for range groups {
		c := newCrowd(b, service, members)
		c.group = nil
		crowds = append(crowds, c)
	}
	for b.Loop() {
		loaded := delivery.New(service.Deps)
		before := heap()
		for _, c := range crowds {
			if _, err := loaded.Group(b.Context(), caller("@user0:a.example"), c.id); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(heap()-before)/groups, "B/group")
		runtime.KeepAlive(loaded)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// BenchmarkList lists groups for an operator of a server that has 10,000: a page of 100 right after a start (cold), the
// same page again (warm), and the total and the drain's counts alone. Of the groups, 200 have two members each. The
// others are rows that no page shows.
func BenchmarkList(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) {
		file := "file:" + filepath.Join(b.TempDir(), "mimi.db")
		store, err := sqlite.Open(b.Context(), file)
		benchmarkList(b, store, err, "sqlite3", file+"?_busy_timeout=10000")
	})
	b.Run("postgres", func(b *testing.B) {
		connection := pgtest.Start(b).Database(b)
		store, err := postgres.Open(b.Context(), connection, postgres.Pool{MaxOpen: 10, MaxIdle: 10})
		benchmarkList(b, store, err, "postgres", connection)
	})
}

func benchmarkList(b *testing.B, store storage.Store, err error, driver, connection string) {
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { store.Close() })
	const groups, real, page = 10_000, 200, 100
	w := deliverytest.New(1, map[string]storage.Store{serverA: store})
	for range real {
		if _, _, err := deliverytest.NewGroup(b.Context(), w, serverA, alice, bob); err != nil {
			b.Fatal(err)
		}
	}
	multiply(b, driver, connection, groups/real)
	if err := store.FillDrain(b.Context(), w.Now(serverA)); err != nil {
		b.Fatal(err)
	}
	took := make(map[string]time.Duration)
	measure := func(name string, act func() error) {
		begin := time.Now()
		if err := act(); err != nil {
			b.Fatal(err)
		}
		took[name] += time.Since(begin)
	}
	list := func() error {
		shown, total, err := w.Service(serverA).AdminGroups(b.Context(), storage.GroupFilter{}, nil, page)
		if err == nil && (total != groups || len(shown) != page || shown[page-1].Fault != "") {
			err = fmt.Errorf("a page of %d of %d groups", len(shown), total)
		}
		return err
	}
	for b.Loop() {
		w.Restart(serverA)
		measure("cold", list)
		measure("warm", list)
		measure("total", func() error {
			_, err := store.CountGroups(b.Context(), storage.GroupFilter{})
			return err
		})
		measure("drain", func() error {
			_, err := store.CountDrain(b.Context())
			return err
		})
	}
	for name, d := range took {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), "ms-"+name)
	}
	b.ReportMetric(0, "ns/op")
}

// multiply makes copies of the rows of all groups, so that there are so many times as many. The ids of the copies come
// after all others.
func multiply(b *testing.B, driver, connection string, times int) {
	db := must(sql.Open(driver, connection))(b)
	defer db.Close()
	tx := must(db.BeginTx(b.Context(), nil))(b)
	rows := must(tx.QueryContext(b.Context(), "SELECT * FROM mimiport_groups"))(b)
	columns := must(rows.Columns())(b)
	var all [][]any
	for rows.Next() {
		row, places := make([]any, len(columns)), make([]any, len(columns))
		for i := range row {
			places[i] = &row[i]
		}
		if err := rows.Scan(places...); err != nil {
			b.Fatal(err)
		}
		all = append(all, row)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		b.Fatal(err)
	}
	numbers := make([]string, len(columns))
	for i := range numbers {
		numbers[i] = fmt.Sprintf("$%d", i+1)
	}
	values := "INSERT INTO mimiport_groups VALUES (" + strings.Join(numbers, ", ") + ")"
	insert := must(tx.PrepareContext(b.Context(), values))(b)
	place := slices.Index(columns, "group_id")
	for i := range times - 1 {
		for _, row := range all {
			copied := slices.Clone(row)
			copied[place] = append([]byte{255, 255, byte(i)}, row[place].([]byte)...)
			must(insert.ExecContext(b.Context(), copied...))(b)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
}
