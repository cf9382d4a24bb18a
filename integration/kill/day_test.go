package kill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// pace says how much happens in a day.
type pace struct {
	rooms, groups int // groups in each room
	hours, acts   int // acts in each hour, of members of all groups together
}

// The paces without and with MIMI_SOAK.
var (
	shortDay = pace{rooms: 4, groups: 5, hours: 4, acts: 120}
	longDay  = pace{rooms: 100, groups: 100, hours: 24, acts: 1200}
)

// day is a day of two homeservers whose clocks leap an hour after each hour's traffic. Half of the groups move between
// them. In the other half, one member leaves the room. A quarter has a member on a third server, which is dead for half
// of the day. At noon the first server is killed and starts again, and later the second.
type day struct {
	pace
	a, b, c                 *harness.Server
	alice, bob, carol, dave *harness.User // on a, b, c and a
	client                  *http.Client  // for requests between servers
	rooms                   [][]*talk

	base []harness.Counts // of a and b, after the first hour in which they have all groups in memory
}

// The section of a server in a day.
const daySection = harness.Section + `
  retention: {log: 2h}
  policy:
    target: joined_servers
    quotas: {groups: 0, groups_per_user: 0, groups_per_room: 0, reserved_per_user: 0, reserved_per_room: 0, offers: 0,
      offers_per_room: 0, staged: 0, staged_per_user: 0, staged_per_room: 0, staged_per_source: 0, moves_per_hour: 0,
      groups_per_user_in_room: 0, staged_per_user_in_room: 0}
`

// TestDay: after each hour of a day with traffic, moves, leaves, a dead server and restarts, a server holds as much
// memory, as many open files and as many goroutines as when the last group had its first traffic.
func TestDay(t *testing.T) {
	d := &day{pace: shortDay}
	if os.Getenv(soakEnv) != "" {
		d.pace = longDay
	}
	d.begin(t)
	fmt.Fprintln(t.Output(), dayHead)
	for hour := range d.hours {
		event := d.strike(t, hour)
		total := d.live(t, hour)
		for _, s := range []*harness.Server{d.a, d.b, d.c} {
			setClock(t, s, time.Duration(hour+1)*time.Hour)
		}
		d.report(t.Output(), hour, event, total, d.count(t, hour))
	}
}

// begin starts the servers and makes the groups.
func (d *day) begin(t *testing.T) {
	network := harness.NewTestNetwork(t)
	d.client = network.Client()
	t.Cleanup(d.client.CloseIdleConnections)
	for _, s := range []**harness.Server{&d.a, &d.b, &d.c} {
		*s = network.StartServer(t, daySection)
	}
	d.register(t)
	for s, other := range map[*harness.Server]*harness.Server{d.a: d.b, d.b: d.a} {
		root := harness.RegisterUser(t, s, "root", true)
		may := map[string][]string{"creators": {other.Name}}
		if err := root.Do(t.Context(), http.MethodPut, adminapi.PathPrefix+"/policy", may, nil); err != nil {
			t.Fatal(err)
		}
	}
	d.rooms = make([][]*talk, d.pace.rooms)
	d.inRooms(t, func(ctx context.Context, i int) (err error) {
		d.rooms[i], err = d.gather(ctx, i)
		return err
	})
}

// register makes the users. Their devices publish the keys of their leaves, which are the same in all groups.
func (d *day) register(t *testing.T) {
	keys := mlstest.New(mlstest.Options{Members: make([][]byte, 3)})
	for _, u := range []struct {
		user   **harness.User
		name   string
		server *harness.Server
		leaf   uint32
	}{{&d.alice, "alice", d.a, 0}, {&d.bob, "bob", d.b, 1}, {&d.carol, "carol", d.c, 2}, {&d.dave, "dave", d.a, 2}} {
		*u.user = harness.RegisterUser(t, u.server, u.name, false)
		if err := (*u.user).PublishKey(t.Context(), "ed25519", keys.Client(u.leaf).SignatureKey()); err != nil {
			t.Fatal(err)
		}
	}
}

// moves reports whether the groups of a room move. In the other rooms dave leaves, and the groups list their host.
func moves(room int) bool { return room%2 == 0 }

// gather makes room i and its groups. Half of them begin at a.
func (d *day) gather(ctx context.Context, i int) (talks []*talk, err error) {
	room, err := d.alice.CreateRoom(ctx)
	if err != nil {
		return nil, err
	}
	members := []*harness.User{d.alice, d.bob}
	if i%4 == 0 {
		members = append(members, d.carol)
	}
	if !moves(i) {
		members = append(members, d.dave)
	}
	for _, u := range members[1:] {
		if err := d.alice.Admit(ctx, room, u); err != nil {
			return nil, err
		}
	}
	if err := d.alice.SetPowerLevel(ctx, room, d.bob.ID, 100); err != nil {
		return nil, err
	}
	for n := range d.groups {
		g := &talk{room: room, members: members, servers: [2]*harness.Server{d.a, d.b}, host: n % 2}
		// A server may not have heard of bob's power level yet.
		bind := func(ctx context.Context) error { return g.bind(ctx, d.client, !moves(i)) }
		if err := soon(ctx, bind); err != nil {
			return nil, err
		}
		talks = append(talks, g)
	}
	return talks, nil
}

// inRooms runs something for all rooms, some at a time.
func (d *day) inRooms(t *testing.T, run func(ctx context.Context, room int) error) {
	t.Helper()
	all, ctx := errgroup.WithContext(t.Context())
	all.SetLimit(8)
	for i := range d.rooms {
		all.Go(func() error { return run(ctx, i) })
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
}

// strike lets happen to the servers what happens to them at the beginning of an hour.
func (d *day) strike(t *testing.T, hour int) (event string) {
	switch hour {
	case d.hours / 4:
		kill(t, d.c)
		return "c dies"
	case d.hours / 2:
		kill(t, d.a)(t)
		return "a restarts"
	case d.hours * 3 / 4:
		if err := d.c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		kill(t, d.b)(t)
		return "c is back, b restarts"
	}
	return ""
}

// sum counts what the members did in an hour.
type sum struct{ acts, moved, left int }

// live is the traffic of an hour.
func (d *day) live(t *testing.T, hour int) (total sum) {
	sums := make([]sum, len(d.rooms))
	d.inRooms(t, func(ctx context.Context, i int) error {
		leaves := !moves(i) && i/2%d.hours == hour
		if leaves {
			if err := d.dave.Leave(ctx, d.rooms[i][0].room); err != nil {
				return err
			}
		}
		each := d.acts / len(d.rooms)
		for n := range each {
			moved, err := d.rooms[i][(hour*each+n)%d.groups].act(ctx, n, moves(i))
			if err != nil {
				return fmt.Errorf("room %d: %w", i, err)
			}
			sums[i].acts++
			if moved {
				sums[i].moved++
			}
		}
		if !leaves {
			return nil
		}
		for _, g := range d.rooms[i] {
			if err := g.letGo(ctx, d.dave); err != nil {
				return err
			}
			sums[i].left++
		}
		return nil
	})
	for _, s := range sums {
		total.acts, total.moved, total.left = total.acts+s.acts, total.moved+s.moved, total.left+s.left
	}
	return total
}

// warm reports whether all groups have had a part of the traffic before an hour. A server has such a group in memory.
func (d *day) warm(hour int) bool { return hour*(d.acts/len(d.rooms)) >= d.groups }

// count waits until a and b hold no more than the base, or a little more, and returns what they hold.
func (d *day) count(t *testing.T, hour int) (now []harness.Counts) {
	t.Helper()
	if hour > 0 && !d.warm(hour) {
		d.base = nil
	}
	err := soon(t.Context(), func(ctx context.Context) error {
		before := now
		now = nil
		for _, s := range []*harness.Server{d.a, d.b} {
			c, err := s.Counts(ctx)
			if err != nil {
				return err
			}
			now = append(now, c)
		}
		if d.base == nil {
			return requireRest(before, now)
		}
		return errors.Join(requireFlat("a", d.base[0], now[0]), requireFlat("b", d.base[1], now[1]))
	})
	if err != nil {
		t.Error(err)
	}
	if d.base == nil {
		d.base = now
	}
	return now
}

// requireRest fails if a server holds fewer goroutines than before: it still works.
func requireRest(before, now []harness.Counts) error {
	if before == nil || now[0].Goroutines < before[0].Goroutines || now[1].Goroutines < before[1].Goroutines {
		return fmt.Errorf("the servers do not rest: %+v", now)
	}
	return nil
}

// requireFlat fails if a server holds much more than before.
func requireFlat(name string, before, now harness.Counts) error {
	const heap, files, goroutines = 8 << 20, 15, 30
	if now.Heap > before.Heap*5/4+heap || now.Files > before.Files+files ||
		now.Goroutines > before.Goroutines+goroutines {
		return fmt.Errorf("%s held %+v, and holds %+v", name, before, now)
	}
	return nil
}

const dayHead = "| hour | acts | moves | removals | heap of a, b | memory of a, b | files | goroutines | |\n" +
	"| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"

// report prints an hour as a line of a table. Memory is in MiB.
func (d *day) report(out io.Writer, hour int, event string, s sum, now []harness.Counts) {
	a, b := now[0], now[1]
	fmt.Fprintf(out, "| %d | %d | %d | %d | %d, %d | %d, %d | %d, %d | %d, %d | %s |\n", hour+1, s.acts, s.moved, s.left,
		a.Heap>>20, b.Heap>>20, a.Resident>>20, b.Resident>>20, a.Files, b.Files, a.Goroutines, b.Goroutines, event)
}
