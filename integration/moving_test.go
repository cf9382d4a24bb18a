package integration

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
)

// manyMoves is the section of a server that takes many groups of one user, whose devices publish no keys.
const manyMoves = harness.Section + `  decide_by: 5m
  policy:
    device_keys: published
    quotas: {groups_per_user: 10000, groups_per_room: 10000, groups_per_user_in_room: 10000, reserved_per_user: 10000,
      reserved_per_room: 10000, offers: 10000, offers_per_room: 10000, staged: 10000, staged_per_user: 10000,
      staged_per_room: 10000, staged_per_source: 10000, staged_per_user_in_room: 10000, moves_per_hour: 100000}
`

// movers are alice and bob on two homeservers. Each moves groups to the own homeserver.
type movers struct {
	network    *harness.TestNetwork
	a, b       *harness.Server
	alice, bob *harness.User
}

func newMovers(t testing.TB) *movers {
	t.Helper()
	n := harness.NewTestNetwork(t)
	m := &movers{network: n, a: n.StartServer(t, manyMoves), b: n.StartServer(t, manyMoves)}
	m.alice = harness.RegisterUser(t, m.a, "alice", false)
	m.bob = harness.RegisterUser(t, m.b, "bob", false)
	bob := mlstest.New(mlstest.Options{Members: m.devices(2)}).Client(1) // its key does not depend on the group's id
	if err := m.bob.PublishKey(t.Context(), "ed25519", bob.SignatureKey()); err != nil {
		t.Fatal(err)
	}
	return m
}

// moving is a group with the leaves of movers.devices.
type moving struct {
	*movers
	id, room string
	mls      *mlstest.Group
	at, to   *harness.Server
	prepared *mlstest.Commit // to the other server
}

// newGroup binds a group in a room, at alice's server.
func (m *movers) newGroup(t testing.TB, room string, members int) *moving {
	t.Helper()
	g := &moving{movers: m, room: room, at: m.a, to: m.b}
	var reserved api.ReserveGroupResponse
	if err := g.ask(t.Context(), m.alice, m.a, http.MethodPost, "/groups",
		&api.ReserveGroupRequest{RoomID: room}, &reserved); err != nil {
		t.Fatal(err)
	}
	g.id = "/groups/" + url.PathEscape(base64.RawURLEncoding.EncodeToString(reserved.GroupID))
	g.mls = mlstest.New(mlstest.Options{GroupID: reserved.GroupID, Members: g.devices(2)})
	if err := g.ask(t.Context(), m.alice, m.a, http.MethodPut, g.id, &api.BindGroupRequest{
		Protocol: "mls10", GroupInfo: g.mls.GroupInfo(), RatchetTree: g.mls.RatchetTree(),
	}, nil); err != nil {
		t.Fatal(err)
	}
	if members > 2 {
		g.grow(t, members)
	}
	return g
}

// devices returns the identities of n leaves: leaf 0 is of alice, leaf 1 of bob, and all others of alice.
func (m *movers) devices(n int) (identities [][]byte) {
	for i := range n {
		identities = append(identities, mlstest.Identity(m.alice.ID, fmt.Sprint("DEVICE", i)))
	}
	identities[1] = mlstest.Identity(m.bob.ID, m.bob.DeviceID)
	return identities
}

// grow puts a larger group into the place of the bound one, past the limit of a request: it writes the server's
// database while the server is down.
func (g *moving) grow(t testing.TB, members int) {
	t.Helper()
	id := g.mls.ID()
	g.mls = mlstest.New(mlstest.Options{GroupID: id, Members: g.devices(members), Populated: true})
	if err := g.at.Stop(); err != nil {
		t.Fatal(err)
	}
	store, err := engine.Open(t.Context(), g.at.Store(), postgres.Pool{MaxOpen: 1, MaxIdle: 1})
	if err != nil {
		t.Fatal(err)
	}
	row, err := store.Group(t.Context(), id)
	if err == nil {
		key := row.Key()
		err = store.Apply(t.Context(), &storage.Change{Group: row, Drop: &key, Snapshots: []storage.Snapshot{{
			GroupID: id, Term: row.Term, Epoch: row.Epoch, Seq: row.NextSeq,
			GroupInfo: g.mls.GroupInfo(), RatchetTree: g.mls.RatchetTree(),
		}}})
	}
	if err := errors.Join(err, store.Close(), g.at.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// ask sends a user's request to a Delivery Service, through the user's homeserver.
func (m *movers) ask(
	ctx context.Context, u *harness.User, at *harness.Server, method, path string, in, out any,
) error {
	return u.Do(ctx, method, clientapi.PathPrefix+"/ds/"+url.PathEscape(at.Name)+path, in, out)
}

// member returns the member of a server.
func (g *moving) member(at *harness.Server) (u *harness.User, leaf uint32) {
	if at == g.a {
		return g.alice, 0
	}
	return g.bob, 1
}

// commit returns a Commit of the member of a server.
func (g *moving) commit(of *harness.Server, aad []byte) *mlstest.Commit {
	_, leaf := g.member(of)
	return g.mls.Commit(mlstest.CommitOptions{Sender: leaf, Path: true, AuthenticatedData: aad})
}

// prepare makes the Commit that moves the group, which no server sees yet.
func (g *moving) prepare(t testing.TB) {
	t.Helper()
	aad, err := (&mimiport.MigrationCommitAAD{TargetDomain: g.to.Name}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	g.prepared = g.commit(g.to, aad)
}

// move lets the target's member move the group with the prepared Commit. It returns when the target has activated the
// group.
func (g *moving) move(ctx context.Context) error {
	u, leaf := g.member(g.to)
	request, err := (&mimiport.MigrationRequest{
		SourceDomain: g.at.Name, TargetDomain: g.to.Name, GroupID: g.mls.ID(), Epoch: g.mls.Epoch(),
	}).Marshal()
	if err != nil {
		return err
	}
	var offer api.MigrationOffer
	in := &api.MigrationRequestRequest{MigrationRequest: request, RoomID: g.room}
	if err := g.ask(ctx, u, g.to, http.MethodPost, "/migrations", in, &offer); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	response, err := mimiport.UnmarshalMigrationResponse(offer.MigrationResponse)
	if err != nil {
		return err
	}
	init := &mimiport.MigrationInit{Response: *response}
	tbs, err := init.TBS()
	if err != nil {
		return err
	}
	init.Signature = g.mls.Sign(leaf, mimiport.MigrationInitLabel, tbs)
	encoded, err := init.Marshal()
	if err != nil {
		return err
	}
	var st api.MigrationStatus
	path := "/migrations/" + offer.MigrationID
	err = g.ask(ctx, u, g.at, http.MethodPut, path+"/init", &api.MigrationInitRequest{
		MigrationInit: encoded, KeyID: offer.KeyID,
		SubmitRequest: api.SubmitRequest{Message: g.prepared.Message, GroupInfo: g.prepared.GroupInfo},
	}, &st)
	for err == nil && st.State == string(migration.Frozen) {
		err = g.ask(ctx, u, g.at, http.MethodGet, path, nil, &st)
	}
	if err == nil && st.Confirmation == nil {
		err = fmt.Errorf("the move is %s: %s", st.State, st.Reason)
	}
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	decision := &api.SignedRequest{Message: st.Confirmation.Message, KeyID: st.Confirmation.KeyID}
	if err := g.ask(ctx, u, g.to, http.MethodPut, path+"/confirmation", decision, nil); err != nil {
		return fmt.Errorf("confirmation: %w", err)
	}
	g.mls, g.at, g.to = g.prepared.Next, g.to, g.at
	return nil
}

// submit lets the host's member submit a Commit, which the host must accept.
func (g *moving) submit(ctx context.Context, c *mlstest.Commit) error {
	u, _ := g.member(g.at)
	req := &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}
	err := g.ask(ctx, u, g.at, http.MethodPost, g.id+"/messages", req, nil)
	if err == nil {
		g.mls = c.Next
	}
	return err
}

// TestMoves prints what moves cost. With MIMI_SOAK=1 it moves groups of 10,000 and 50,000 members and 1,000 small ones.
func TestMoves(t *testing.T) {
	soak := os.Getenv("MIMI_SOAK") != ""
	m := newMovers(t)
	t.Run("large", func(t *testing.T) {
		if !soak {
			m.costs(t, 1000)
			return
		}
		for _, members := range []int{10_000, 50_000} {
			least := math.Inf(1)
			for range 3 {
				one, took := m.costs(t, members)
				least = min(least, float64(took)/float64(one))
			}
			if least > 1.3 {
				t.Errorf("%d members: a move takes at least %.2f times one import", members, least)
			}
		}
	})
	t.Run("small", func(t *testing.T) {
		own, together := 4, 4
		if soak {
			own, together = 1000, 100
		}
		m.drain(t, "in one room", slices.Repeat([]string{harness.SharedRoom(t, m.alice, m.bob)}, together))
		rooms := m.roomsOf(t, own)
		if soak {
			m.events(t, rooms[:together])
		}
		m.drain(t, "in rooms of their own", rooms)
	})
}

// costs moves a group. It prints the time and the processor time, from the request for an offer to the first Commit at
// the target, in multiples of one import by single signatures in this process. It returns the times.
func (m *movers) costs(t testing.TB, members int) (one, took time.Duration) {
	t.Helper()
	g := m.newGroup(t, harness.SharedRoom(t, m.alice, m.bob), members)
	if err := g.submit(t.Context(), g.commit(g.at, nil)); err != nil { // the source has the group in memory, as in life
		t.Fatal(err)
	}
	one, oneCPU := g.importOnce(t)
	took, cpu := g.moveOnce(t)
	t.Logf("%d members: one import takes %v (%v of processor time), a move %v (%v): %.2f times (%.2f times)", members,
		one.Round(time.Millisecond), oneCPU.Round(time.Millisecond), took.Round(time.Millisecond),
		cpu.Round(time.Millisecond), float64(took)/float64(one), float64(cpu)/float64(oneCPU))
	return one, took
}

// BenchmarkMove measures one import by single signatures, and a whole move to the first Commit at the target.
func BenchmarkMove(b *testing.B) {
	for _, members := range []int{10_000, 50_000} {
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			m := newMovers(b)
			for b.Loop() {
				one, took := m.costs(b, members)
				b.ReportMetric(one.Seconds(), "import-s")
				b.ReportMetric(took.Seconds(), "move-s")
			}
		})
	}
}

// BenchmarkDrain measures the processor time of small moves in one room, of events that Dendrite alone handles in rooms
// of their own, and of moves in these rooms, each of which sends one such event. The floor is the sum of the first two.
func BenchmarkDrain(b *testing.B) {
	const groups = 50
	m := newMovers(b)
	for b.Loop() {
		shared := m.drain(b, "in one room", slices.Repeat([]string{harness.SharedRoom(b, m.alice, m.bob)}, groups))
		rooms := m.roomsOf(b, groups)
		event := m.events(b, rooms)
		own := m.drain(b, "in rooms of their own", rooms)
		b.ReportMetric(milliseconds(shared.cpu), "shared-ms")
		b.ReportMetric(milliseconds(shared.cpu+event.cpu), "floor-ms")
		b.ReportMetric(milliseconds(own.cpu), "own-ms")
		b.ReportMetric(event.rate, "events/s")
		b.ReportMetric(own.rate, "own/s")
	}
}

// importOnce opens the group as a target without batches does.
func (g *moving) importOnce(t testing.TB) (took, cpu time.Duration) {
	t.Helper()
	info, tree := g.mls.GroupInfo(), g.mls.RatchetTree()
	begin, used := time.Now(), harness.ProcessorTime(t, os.Getpid())
	if _, err := mls.RFC9420(mls.DefaultLimits()).Open(info, tree); err != nil {
		t.Fatal(err)
	}
	return time.Since(begin), harness.ProcessorTime(t, os.Getpid()) - used
}

// used returns the processor time of both servers so far.
func (m *movers) used(t testing.TB) time.Duration {
	t.Helper()
	return harness.ProcessorTime(t, m.a.PID()) + harness.ProcessorTime(t, m.b.PID())
}

// moveOnce moves the group and submits the first Commit at the target.
func (g *moving) moveOnce(t testing.TB) (took, cpu time.Duration) {
	t.Helper()
	g.prepare(t)
	there := *g
	there.mls = g.prepared.Next
	first := there.commit(g.to, nil)
	begin, used := time.Now(), g.used(t)
	if err := g.move(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.submit(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	return time.Since(begin), g.used(t) - used
}

// roomsOf makes n rooms, some at a time.
func (m *movers) roomsOf(t testing.TB, n int) []string {
	t.Helper()
	rooms := make([]string, n)
	var making errgroup.Group
	making.SetLimit(8)
	for i := range rooms {
		making.Go(func() (err error) {
			if rooms[i], err = m.alice.CreateRoom(t.Context()); err == nil {
				err = m.alice.Admit(t.Context(), rooms[i], m.bob)
			}
			if err == nil {
				err = m.alice.SetPowerLevel(t.Context(), rooms[i], m.bob.ID, 100)
			}
			return err
		})
	}
	if err := making.Wait(); err != nil {
		t.Fatal(err)
	}
	return rooms
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

// drain makes a group in each of the rooms and moves them. It prints and returns as each does.
func (m *movers) drain(t testing.TB, where string, rooms []string) cost {
	t.Helper()
	groups := make([]*moving, len(rooms))
	for i, room := range rooms {
		groups[i] = m.newGroup(t, room, 2)
		groups[i].prepare(t)
	}
	const times = 100
	begin := time.Now()
	for range times {
		groups[0].importOnce(t)
	}
	t.Logf("to verify one of the groups once takes %v", (time.Since(begin) / times).Round(time.Microsecond))
	return m.each(t, "moves "+where, len(groups), func(i int) error { return groups[i].move(t.Context()) })
}

// events sends a state event of the size of a pointer into each of the rooms, without any work of the module's. It
// prints and returns as each does.
func (m *movers) events(t testing.TB, rooms []string) cost {
	t.Helper()
	content := map[string]string{"text": strings.Repeat("x", 1000)}
	return m.each(t, "events in these rooms", len(rooms), func(i int) error {
		return m.alice.SetState(t.Context(), rooms[i], "org.example.size", content)
	})
}

// cost is how often something happens in a second, and the processor time of both servers for each. This time includes
// all that the servers do until they rest.
type cost struct {
	rate float64
	cpu  time.Duration
}

// each does something n times, 16 at a time. It prints and returns the cost.
func (m *movers) each(t testing.TB, what string, n int, do func(i int) error) cost {
	t.Helper()
	harness.Rest(t, m.a.PID(), m.b.PID())
	var doing errgroup.Group
	doing.SetLimit(16)
	begin, used := time.Now(), m.used(t)
	for i := range n {
		doing.Go(func() error { return do(i) })
	}
	if err := doing.Wait(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	harness.Rest(t, m.a.PID(), m.b.PID())
	rested := time.Since(begin)
	c := cost{float64(n) / took.Seconds(), (m.used(t) - used) / time.Duration(n)}
	t.Logf("%d %s in %v, at rest after %v: %.1f a second, %v of processor time for each", n, what,
		took.Round(100*time.Millisecond), rested.Round(time.Second), c.rate, c.cpu.Round(100*time.Microsecond))
	return c
}
