package delivery_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/fsck"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

const (
	ben  = "@ben:b.example"
	cleo = "@cleo:c.example"
)

// emptying is a server A that empties itself, with servers B and C.
type emptying struct {
	*deliverytest.World
	t     *testing.T
	asked map[string]int // questions to targets, by target
}

// newEmptying makes the servers. When the test ends, fsck must find nothing wrong at A.
func newEmptying(t *testing.T) *emptying {
	e := &emptying{t: t, asked: make(map[string]int)}
	store := memory.New()
	e.World = deliverytest.New(1, map[string]storage.Store{
		serverA: store, serverB: memory.New(), serverC: memory.New(),
	})
	t.Cleanup(func() {
		report, err := fsck.Check(context.WithoutCancel(t.Context()), store, e.Service(serverA).Engines)
		if err != nil || len(report.Problems) > 0 {
			t.Errorf("fsck: %v %v", report, err)
		}
	})
	e.Logf = t.Logf
	e.Lose = func(m deliverytest.Message) bool {
		if m.What == "intake" {
			e.asked[m.To]++
		}
		return false
	}
	return e
}

func (e *emptying) group(users ...string) string {
	e.t.Helper()
	g, _, err := deliverytest.NewGroup(e.t.Context(), e.World, serverA, users...)
	if err != nil {
		e.t.Fatal(err)
	}
	return string(g.ID)
}

func (e *emptying) policy(server, patch string) {
	e.t.Helper()
	must(e.Service(server).SetPolicy(e.t.Context(), []byte(patch)))(e.t)
}

func (e *emptying) start(req *api.DrainRequest) *api.Drain {
	e.t.Helper()
	return must(e.Service(serverA).StartDrain(e.t.Context(), req))(e.t)
}

// run lets time pass second by second, and does what is due.
func (e *emptying) run(d time.Duration) {
	e.t.Helper()
	if err := e.RunFor(e.t.Context(), d); err != nil {
		e.t.Fatal(err)
	}
}

// requests takes the users that have been asked since the last call, in order.
func (e *emptying) requests() (users []string) {
	for _, a := range e.Asked {
		users = append(users, a.UserID)
	}
	e.Asked = nil
	return users
}

// answer lets the devices follow all requests, and returns how many have moved.
func (e *emptying) answer() (moved int) {
	e.t.Helper()
	moved = len(e.Asked)
	if err := e.Answer(e.t.Context(), moved); err != nil {
		e.t.Fatal(err)
	}
	return moved
}

func (e *emptying) state() *api.Drain {
	e.t.Helper()
	return must(e.Service(serverA).Drain(e.t.Context()))(e.t)
}

func (e *emptying) report(states ...api.DrainGroupState) []api.DrainGroup {
	e.t.Helper()
	groups, total, err := e.Service(serverA).DrainGroups(e.t.Context(), states, nil, 1000)
	if err != nil || total != len(groups) {
		e.t.Fatal(total, len(groups), err)
	}
	return groups
}

func (e *emptying) plan(targets ...string) api.DrainPlan {
	e.t.Helper()
	plan, total, err := e.Service(serverA).PlanDrain(e.t.Context(), targets, nil, 1)
	if err != nil || len(plan) != 1 || total < 1 {
		e.t.Fatal(plan, total, err)
	}
	return plan[0]
}

func rules(why []api.DrainReason) (rules []string) {
	for _, r := range why {
		rules = append(rules, r.Target+" "+r.Rule)
	}
	return rules
}

// TestDrainEmptiesAServer: a drain asks a member of each group whom a target accepts, with a signed request, and ends
// when no group is left. The numbers are those of the store at any time.
func TestDrainEmptiesAServer(t *testing.T) {
	e := newEmptying(t)
	const n = 20
	for range n {
		e.group(alice, bob)
	}
	if d := e.state(); d.State != api.DrainNone || d.Total != 0 {
		t.Errorf("before: %+v", d)
	}
	if d := e.start(&api.DrainRequest{Targets: []string{serverB}}); d.State != api.DrainRunning || d.Left != n {
		t.Errorf("started: %+v", d)
	}
	moved := 0
	for moved < n {
		e.run(time.Second)
		moved += e.answer()
		if err := e.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		d := e.state()
		here, err := e.Stores[serverA].CountGroups(t.Context(), storage.GroupFilter{States: storage.DrainedStates})
		if err != nil || d.Left != here || d.Groups[api.DrainMoved] != moved || d.Total != n {
			t.Fatalf("%d moved, %d here, %v: %+v", moved, here, err, d)
		}
	}
	if d := e.state(); d.State != api.DrainDone {
		t.Errorf("in the end: %+v", d)
	}
	for _, g := range e.report(api.DrainMoved) {
		if diff := cmp.Diff(&api.MovedTo{Server: serverB, Term: 1}, g.MovedTo); diff != "" || g.Asked.UserID != bob {
			t.Errorf("%+v %s", g, diff)
		}
	}
}

// TestDrainRequest: a request names the host, the group, its term and room, the member and the targets, and its end.
// The host has signed it.
func TestDrainRequest(t *testing.T) {
	e := newEmptying(t)
	id := e.group(alice, bob)
	e.start(&api.DrainRequest{Targets: []string{serverC, serverB}, Deadline: time.Hour.Milliseconds()})
	e.run(0)
	if len(e.Asked) != 1 {
		t.Fatalf("%+v", e.Asked)
	}
	a := e.Asked[0]
	if err := e.Service(serverA).Keys.VerifyOwn(serverA, a.KeyID, &a.MoveRequest); err != nil {
		t.Error(err)
	}
	want := mimiport.MoveRequest{
		SourceDomain: serverA, GroupID: []byte(id), RoomID: room, UserID: bob, Targets: []string{serverB},
		ExpiresAt: uint64(e.Now(serverA).Add(time.Hour).UnixMilli()), Signature: a.Signature,
	}
	if diff := cmp.Diff(want, a.MoveRequest); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string][]string{bob: {"DEVICE"}}, a.Devices); diff != "" {
		t.Error(diff)
	}
}

// TestDrainAsksOneAfterTheOther: when the time of a member is up, the next one is asked. When all have been asked, the
// group is stuck, and after a while the first one is asked again.
func TestDrainAsksOneAfterTheOther(t *testing.T) {
	e := newEmptying(t)
	e.group(alice, bob, ben)
	e.start(&api.DrainRequest{Targets: []string{serverB}})
	var asked []string
	for range 3 {
		e.run(time.Minute)
		asked = append(asked, e.requests()...)
	}
	if diff := cmp.Diff([]string{ben, bob}, asked); diff != "" {
		t.Error(diff)
	}
	e.run(2 * time.Minute)
	stuck := e.report(api.DrainStuck)
	if len(stuck) != 1 || !cmp.Equal(rules(stuck[0].Why), []string{" no_answer"}) || stuck[0].Asked.Tried != 2 {
		t.Fatalf("%+v", stuck)
	}
	e.run(11 * time.Minute)
	if diff := cmp.Diff(ben, e.requests()[0]); diff != "" {
		t.Error(diff)
	}
}

// TestDrainGoesOnAfterAFailure: when a member's migration is aborted, the next member is asked at once.
func TestDrainGoesOnAfterAFailure(t *testing.T) {
	e := newEmptying(t)
	id := e.group(alice, bob, ben)
	e.start(&api.DrainRequest{Targets: []string{serverB}})
	e.run(0)
	e.requests()
	m := e.Member([]byte(id), ben)
	p := must(m.NewMigration(t.Context(), serverB))(t)
	e.Lose = func(m deliverytest.Message) bool { return m.What == "content" }
	st := must(m.Initiate(t.Context(), p))(t)
	if got := e.report(api.DrainMoving); len(got) != 1 {
		t.Errorf("while the group is frozen: %+v", got)
	}
	mid := must(mimiport.ParseMigrationID(st.MigrationID))(t)
	must(e.Service(serverA).AbortMigration(t.Context(), caller(ben), mid))(t)
	e.run(6 * time.Second)
	if diff := cmp.Diff([]string{bob}, e.requests()); diff != "" {
		t.Error(diff)
	}
}

// TestDrainSurvives: a server that dies in the middle of a drain goes on with it, and neither asks everybody again nor
// forgets a group.
func TestDrainSurvives(t *testing.T) {
	e := newEmptying(t)
	for range 5 {
		e.group(alice, bob)
	}
	e.start(&api.DrainRequest{Targets: []string{serverB}})
	e.run(time.Second)
	before := len(e.Asked)
	e.Restart(serverA)
	e.run(10 * time.Second)
	if before == 0 || before == 5 || len(e.Asked) != 5 {
		t.Fatalf("%d requests before the restart, %d in all", before, len(e.Asked))
	}
	e.answer()
	e.Restart(serverA)
	e.run(10 * time.Second)
	if d := e.state(); d.State != api.DrainDone || d.Groups[api.DrainMoved] != 5 {
		t.Errorf("%+v", d)
	}
}

// TestDrainDiesBeforeItSends: the server stores whom it asks before it asks. If it dies in between, the next member is
// asked when the time is up.
func TestDrainDiesBeforeItSends(t *testing.T) {
	e := newEmptying(t)
	e.group(alice, bob, ben)
	e.start(&api.DrainRequest{Targets: []string{serverB}})
	dying, die := context.WithCancel(t.Context())
	e.Lose = func(m deliverytest.Message) bool {
		if m.What == "to-device" {
			die()
		}
		return m.What == "to-device"
	}
	due, _, err := e.Stores[serverA].Due(t.Context(), e.Now(serverA), 10)
	if err != nil || len(due) != 1 {
		t.Fatal(due, err)
	}
	if err := e.Service(serverA).Do(dying, due[0]); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	e.Lose = nil
	e.Restart(serverA)
	e.run(3 * time.Minute)
	if diff := cmp.Diff([]string{bob}, e.requests()); diff != "" {
		t.Error(diff)
	}
}

// TestDrainKeepsItsPace: a drain deals with no more groups in a minute than its rate, asks each target once for a room,
// and asks no member for more than 16 groups at a time.
func TestDrainKeepsItsPace(t *testing.T) {
	e := newEmptying(t)
	for range 100 {
		e.group(alice, bob)
	}
	e.start(&api.DrainRequest{Targets: []string{serverB, serverC}, Rate: 30})
	e.run(59 * time.Second)
	if n := e.answer(); n != 16 {
		t.Errorf("%d requests to one member", n)
	}
	e.run(60 * time.Second)
	if n := e.answer(); n > 30 || n == 0 {
		t.Errorf("%d requests in a minute", n)
	}
	if e.asked[serverB] != 1 || e.asked[serverC] != 1 {
		t.Errorf("questions to targets: %v", e.asked)
	}
}

// TestDrainTakesNothingNew: while a server empties itself, it takes no new group and no migration. Afterwards it does.
func TestDrainTakesNothingNew(t *testing.T) {
	e := newEmptying(t)
	e.group(alice, bob)
	g, there, err := deliverytest.NewGroup(t.Context(), e.World, serverB, bob, alice)
	if err != nil {
		t.Fatal(g, err)
	}
	a := e.Service(serverA)
	reserve := func() error {
		_, err := a.ReserveGroup(t.Context(), caller(alice), &api.ReserveGroupRequest{RoomID: room})
		return err
	}
	move := func() error {
		_, err := there[1].NewMigration(t.Context(), serverA)
		return err
	}
	e.start(&api.DrainRequest{Targets: []string{serverB}})
	for _, act := range []func() error{reserve, move} {
		if err := act(); mimiport.KindOf(err) != mimiport.KindForbidden {
			t.Errorf("while it empties itself: %v", err)
		}
	}
	if d := must(a.StopDrain(t.Context()))(t); d.State != api.DrainStopped || d.Left != 1 {
		t.Errorf("%+v", d)
	}
	for _, act := range []func() error{reserve, move} {
		if err := act(); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
	if _, err := a.StopDrain(t.Context()); mimiport.KindOf(err) != mimiport.KindConflict {
		t.Errorf("a second stop: %v", err)
	}
	e.run(time.Minute)
	if len(e.Asked) > 0 {
		t.Errorf("asked after the stop: %+v", e.Asked)
	}
}

// TestDrainOverridesTheSourcesPolicy: members may move groups to the targets of a drain, whatever the policy says, and
// to no other server.
func TestDrainOverridesTheSourcesPolicy(t *testing.T) {
	e := newEmptying(t)
	e.policy(serverA, `{"source":"nobody","deny_servers":["b.example"],"quotas":{"moves_per_hour":1}}`)
	ids := []string{e.group(alice, bob, cleo), e.group(alice, bob, cleo)}
	initiate := func(id, user, target string) error {
		m := e.Member([]byte(id), user)
		p, err := m.NewMigration(t.Context(), target)
		if err == nil {
			_, err = m.Initiate(t.Context(), p)
		}
		return err
	}
	if err := initiate(ids[0], bob, serverB); mimiport.KindOf(err) != mimiport.KindForbidden {
		t.Errorf("without a drain: %v", err)
	}
	e.start(&api.DrainRequest{Targets: []string{serverB}})
	if err := initiate(ids[0], cleo, serverC); mimiport.KindOf(err) != mimiport.KindForbidden {
		t.Errorf("to another server: %v", err)
	}
	for _, id := range ids {
		if err := initiate(id, bob, serverB); err != nil {
			t.Errorf("to a target: %v", err)
		}
	}
}

// TestAcceptDrain: a target with accept_drain takes groups of the named server from any member.
func TestAcceptDrain(t *testing.T) {
	e := newEmptying(t)
	e.Room.Join(bob)
	e.group(alice)
	if p := e.plan(serverB); len(p.Moves) > 0 || !cmp.Equal(rules(p.Why), []string{"b.example target_users"}) {
		t.Errorf("%+v", p)
	}
	e.policy(serverB, `{"accept_drain":["a.example"]}`)
	e.start(&api.DrainRequest{Targets: []string{serverB}})
	e.run(0)
	if diff := cmp.Diff([]string{alice}, []string{e.Asked[0].UserID}); diff != "" {
		t.Error(diff)
	}
	e.answer()
	e.run(time.Second)
	if d := e.state(); d.State != api.DrainDone {
		t.Errorf("%+v", d)
	}
}

// TestDrainPlan: the dry run says who can move a group where, and for each target why nobody can. It asks no member.
func TestDrainPlan(t *testing.T) {
	e := newEmptying(t)
	e.group(alice, bob)
	b, c := serverB+" ", serverC+" "
	for _, test := range []struct {
		what   string
		before func()
		moves  []string // of B, by user
		why    []string
	}{
		{"C has no user in the room", func() {}, []string{bob}, []string{c + "target_not_in_room"}},
		{"a user of C is in the room alone", func() { e.Room.Join(cleo) }, []string{bob}, []string{c + "target_users"}},
		{"C takes groups from the room's servers", func() { e.policy(serverC, `{"target":"joined_servers"}`) },
			[]string{bob}, nil},
		{"B takes nothing", func() { e.policy(serverB, `{"target":"nobody"}`) }, nil, []string{b + "target_nobody"}},
		{"B does not like A", func() { e.policy(serverB, `{"preset":"default","deny_servers":["a.example"]}`) }, nil,
			[]string{b + "target_nobody"}},
		{"B is full", func() {
			e.policy(serverB, `{"preset":"default","quotas":{"groups_per_room":1}}`)
			if _, _, err := deliverytest.NewGroup(t.Context(), e.World, serverB, bob); err != nil {
				t.Fatal(err)
			}
		}, nil, []string{b + "target_full"}},
		{"B takes no large groups", func() { e.policy(serverB, `{"preset":"default","quotas":{"members":1}}`) }, nil,
			[]string{b + "target_size"}},
		{"B speaks the draft alone", func() { e.policy(serverB, `{"preset":"default"}`); e.Draft = serverB },
			[]string{bob}, nil},
		{"B does not answer", func() {
			e.Draft = ""
			e.Lose = func(m deliverytest.Message) bool { return m.What == "intake" && m.To == serverB }
		}, nil, []string{b + "target_away"}},
		{"the ACL denies B", func() { e.Lose, e.Room.Denied = nil, []string{serverB} }, nil, []string{b + "target_denied"}},
		{"nobody is in the room", func() {
			e.Room.Denied, e.Room.Joined = nil, map[string]bool{cleo: true}
		}, nil, []string{" no_member"}},
	} {
		test.before()
		e.Pass(11 * time.Minute) // what targets have said is forgotten
		p := e.plan(serverB, serverC)
		var moves []string
		for _, m := range p.Moves {
			if m.Target == serverB {
				moves = m.Users
			}
		}
		if !cmp.Equal(moves, test.moves) || !cmp.Equal(rules(p.Why), test.why) {
			t.Errorf("%s: %v %v", test.what, moves, rules(p.Why))
		}
		for _, why := range p.Why {
			if why.Text == "" || why.Remedy == "" {
				t.Errorf("%s: %+v", test.what, why)
			}
		}
	}
	if len(e.Asked) > 0 || e.state().State != api.DrainNone {
		t.Error("the dry run has changed something")
	}
}

// TestDrainOfLargeRooms: a drain finds the members who may move the group, also in a room with users of more servers
// than a target is asked about: an administrator of the host, and the user with power.
func TestDrainOfLargeRooms(t *testing.T) {
	e := newEmptying(t)
	const zoe = "@zoe:z.example"
	e.group(alice, bob, zoe)
	e.Room.Join(cleo)
	for i := range 2 * api.MaxIntakeServers {
		e.Room.Joined[fmt.Sprintf("@user:0%d.example", i)] = true
	}
	e.Room.Power[alice], e.Room.Power[bob] = 0, 0
	e.Room.Admins = []string{alice}
	e.policy(serverC, `{"target":"joined_servers"}`)
	if moves := e.plan(serverC).Moves; len(moves) != 1 || !cmp.Equal(moves[0].Users, []string{alice, zoe}) {
		t.Errorf("C takes the group from %+v", moves)
	}
}

// TestIntakeTellsStrangersNothing: a target says the same to a server outside the room as for a room that it does not
// know.
func TestIntakeTellsStrangersNothing(t *testing.T) {
	e := newEmptying(t)
	e.Room.Join(bob)
	ask := func(origin, roomID string) *api.Intake {
		return must(e.Service(serverB).Intake(t.Context(), origin, serverB, roomID, []string{serverB, serverA}))(t)
	}
	if diff := cmp.Diff(ask(serverA, "!unknown:b.example"), ask(serverA, room)); diff != "" {
		t.Error(diff)
	}
	e.Room.Join(alice)
	if in := ask(serverA, room); !slices.Equal(in.Servers, []string{serverB}) || in.Refusal != "" {
		t.Errorf("%+v", in)
	}
}

// TestOtherName: if a server has several names, it acts under the one to which another server's request is addressed:
// as a target, and when it gives an id to a user of the other server.
func TestOtherName(t *testing.T) {
	const other, olga = "other.example", "@olga:other.example"
	e := newEmptying(t)
	e.Room.Join(alice, olga)
	e.RestartWith(serverB, func(d *delivery.Deps) {
		d.IsLocal = func(server string) bool { return server == serverB || server == other }
	})
	e.policy(serverB, `{"creators":["a.example"]}`)
	for to, creator := range map[string]string{"": serverB, serverB: serverB, other: other} {
		c := api.Caller{UserID: alice, Server: serverA, To: to}
		res := must(e.Service(serverB).ReserveGroup(t.Context(), c, &api.ReserveGroupRequest{RoomID: room}))(t)
		if res.Preimage.CreatingServer != creator {
			t.Errorf("addressed to %q, the id is of %s", to, res.Preimage.CreatingServer)
		}
	}
	ask := func(to string) *api.Intake {
		return must(e.Service(serverB).Intake(t.Context(), serverA, to, room, []string{serverA, other}))(t)
	}
	if in := ask(other); !slices.Equal(in.Servers, []string{other}) || in.Refusal != "" {
		t.Errorf("%+v", in)
	}
	if in := ask(serverB); in.Refusal != api.IntakeRoom {
		t.Errorf("it has no user in the room: %+v", in)
	}
	e.Room.Denied = []string{other}
	if in := ask(other); in.Refusal != api.IntakeDenied {
		t.Errorf("the room denies it: %+v", in)
	}
}

// TestDrainOfSilentServers: a target or homeserver that does not answer is left alone for a minute, and the drain goes
// on with others.
func TestDrainOfSilentServers(t *testing.T) {
	e := newEmptying(t)
	for range 10 {
		e.group(alice, bob, cleo)
	}
	e.Lose = func(m deliverytest.Message) bool {
		if m.What == "intake" {
			e.asked[m.To]++
		}
		return m.To == serverB
	}
	e.start(&api.DrainRequest{Targets: []string{serverB, serverC}})
	e.run(30 * time.Second)
	if e.asked[serverB] != 1 || len(e.Asked) != 10 {
		t.Errorf("%d questions to B, %d requests", e.asked[serverB], len(e.Asked))
	}
	if d := e.state(); len(d.Away) != 1 || d.Away[0].Server != serverB {
		t.Errorf("%+v", d)
	}
}

// TestDrainAsksTheNextWhereARequestIsLost: a request that does not arrive is not waited for.
func TestDrainAsksTheNextWhereARequestIsLost(t *testing.T) {
	e := newEmptying(t)
	e.policy(serverB, `{"accept_drain":["*.example"]}`)
	e.group(alice, bob, ben)
	e.Lose = func(m deliverytest.Message) bool { return m.What == "to-device" && m.To == serverB }
	e.start(&api.DrainRequest{Targets: []string{serverB}})
	e.run(10 * time.Second)
	if diff := cmp.Diff([]string{alice}, e.requests()); diff != "" {
		t.Error(diff)
	}
}

// refusing is the way to servers that refuse the requests to a user.
type refusing struct {
	delivery.Sender
	user string
}

func (r refusing) ToDevice(ctx context.Context, from, to string, events []api.DeviceEvent) (arrived int, err error) {
	for i := range events {
		if _, refused := events[i].Devices[r.user]; refused {
			events, err = events[:i], mimiport.Errorf("send", mimiport.KindInvalid, "refused")
			break
		}
	}
	if arrived, failed := r.Sender.ToDevice(ctx, from, to, events); failed != nil {
		return arrived, failed
	}
	return len(events), err
}

// TestDrainPassesOverARefusedRequest: a server that refuses one user's request gets those of its other users, and does
// not count as away.
func TestDrainPassesOverARefusedRequest(t *testing.T) {
	e := newEmptying(t)
	e.policy(serverB, `{"accept_drain":["*.example"]}`)
	e.RestartWith(serverA, func(d *delivery.Deps) { d.Sender = refusing{d.Sender, bob} })
	for _, user := range []string{bob, ben, bob, ben} {
		e.group(alice, user)
	}
	e.start(&api.DrainRequest{Targets: []string{serverB}, Rate: api.MaxDrainRate})
	e.run(10 * time.Second)
	got := e.requests()
	slices.Sort(got)
	if diff := cmp.Diff([]string{alice, alice, ben, ben}, got); diff != "" || len(e.state().Away) > 0 {
		t.Error(diff, e.state().Away)
	}
}

// lost is a store that cannot read one group.
type lost struct {
	storage.Store
	id string
}

func (s lost) Group(ctx context.Context, id []byte) (*storage.Group, error) {
	if string(id) == s.id {
		return nil, errors.New("the disk fails")
	}
	return s.Store.Group(ctx, id)
}

// TestDrainGoesAroundAnUnreadableGroup: a group that the server cannot read keeps no other group here.
func TestDrainGoesAroundAnUnreadableGroup(t *testing.T) {
	e := newEmptying(t)
	e.policy(serverB, `{"accept_drain":["*.example"]}`)
	first, second := e.group(alice, bob), e.group(alice, bob)
	e.RestartWith(serverA, func(d *delivery.Deps) { d.Store = lost{d.Store, min(first, second)} })
	e.start(&api.DrainRequest{Targets: []string{serverB}})
	e.run(10 * time.Second)
	if d := e.state(); d.Groups[api.DrainStuck] != 1 || d.Groups[api.DrainAsked] != 1 {
		t.Errorf("%+v", d)
	}
}

// TestDrainDeadline: after the deadline nobody is asked, and the server still takes nothing new.
func TestDrainDeadline(t *testing.T) {
	e := newEmptying(t)
	e.group(alice, bob, ben)
	e.start(&api.DrainRequest{Targets: []string{serverB}, Deadline: 60_000})
	e.run(10 * time.Minute)
	if d := e.state(); d.State != api.DrainOverdue || len(e.requests()) != 1 {
		t.Errorf("%+v", d)
	}
	_, err := e.Service(serverA).ReserveGroup(t.Context(), caller(alice), &api.ReserveGroupRequest{RoomID: room})
	if mimiport.KindOf(err) != mimiport.KindForbidden {
		t.Error(err)
	}
	e.start(&api.DrainRequest{Targets: []string{serverB}})
	e.run(3 * time.Minute)
	if got := e.requests(); len(got) == 0 {
		t.Error("a new start asks nobody")
	}
}

// between is a store that lets something happen once between a reading of the drain's order and the work for it.
type between struct {
	storage.Store
	happens func()
}

func (s *between) Setting(ctx context.Context, name string) (json.RawMessage, error) {
	value, err := s.Store.Setting(ctx, name)
	if happens := s.happens; name == "drain" && happens != nil {
		s.happens = nil
		happens()
	}
	return value, err
}

// TestDrainStartsDuringALastStep: a step that ends a drain does not end the one that an operator starts meanwhile, or
// the one whose end is put off meanwhile.
func TestDrainStartsDuringALastStep(t *testing.T) {
	for what, end := range map[string]func(*emptying){
		"stopped": func(e *emptying) { must(e.Service(serverA).StopDrain(t.Context()))(t) },
		"overdue": func(e *emptying) { e.Pass(time.Minute) },
	} {
		e := newEmptying(t)
		e.group(alice, bob)
		e.start(&api.DrainRequest{Targets: []string{serverB}, Deadline: 60_000})
		due, _, err := e.Stores[serverA].Due(t.Context(), e.Now(serverA), 10)
		if err != nil || len(due) != 1 {
			t.Fatal(due, err)
		}
		end(e)
		slow := &between{e.Stores[serverA], nil}
		e.RestartWith(serverA, func(d *delivery.Deps) { d.Store = slow })
		slow.happens = func() { e.start(&api.DrainRequest{Targets: []string{serverB}}) }
		if err := e.Service(serverA).Do(t.Context(), due[0]); err != nil {
			t.Fatal(err)
		}
		e.run(time.Minute)
		if diff := cmp.Diff([]string{bob}, e.requests()); diff != "" {
			t.Error(what, diff)
		}
	}
}

// TestBadDrains: a bad request is refused, and changes nothing.
func TestBadDrains(t *testing.T) {
	e := newEmptying(t)
	for _, req := range []*api.DrainRequest{
		{}, {Targets: []string{serverA}}, {Targets: []string{serverB, serverB}}, {Targets: []string{"https://b.example"}},
		{Targets: []string{serverB}, Rate: -1}, {Targets: []string{serverB}, Rate: 6001},
		{Targets: []string{serverB}, Deadline: -1}, {Targets: make([]string, 17)},
		{Targets: []string{serverB}, Deadline: 1 << 62},
	} {
		if _, err := e.Service(serverA).StartDrain(t.Context(), req); mimiport.KindOf(err) != mimiport.KindBadMessage {
			t.Errorf("%+v: %v", req, err)
		}
	}
	if d := e.state(); d.State != api.DrainNone {
		t.Errorf("%+v", d)
	}
}
