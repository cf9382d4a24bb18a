package delivery_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
)

// abortOne begins a migration and aborts it.
func (p *play) abortOne() error {
	a, err := p.request(serverA, serverB, bob, nil)
	if err != nil {
		return err
	}
	if _, err := p.initiate(a); err != nil {
		return err
	}
	_, err = p.services[serverA].AbortMigration(p.t.Context(), caller(bob), a.id)
	p.run()
	return err
}

// TestQuotasCount: each quota of profile, section 8 counts the things that a server holds. A refusal has the name of
// the quota, and a retry time only if waiting helps. When the counted things are gone, the quota has room again.
// "Aborted freezes count: 3 an hour per group and user by default" (section 6).
func TestQuotasCount(t *testing.T) {
	const hour = time.Hour + time.Second
	staged := func(p *play) error {
		p.lost = func(_, what string) bool { return what == "vote" || what == "abort" }
		p.begin(serverA, serverB, bob)
		p.run()
		return nil
	}
	decided := func(p *play) {
		p.lost = func(string, string) bool { return false }
		p.now = p.now.Add(2 * time.Minute)
		p.run()
	}
	bound := func(p *play) error { return p.reserved(serverB, bob) }
	raised := func(p *play) { p.allow(serverB, `{"preset":"default"}`) }
	later := func(d time.Duration) func(*play) {
		return func(p *play) { p.now = p.now.Add(d); p.run() }
	}
	reserve := func(p *play) error {
		_, err := p.services[serverB].ReserveGroup(p.t.Context(), caller(bob), &api.ReserveGroupRequest{RoomID: room})
		return err
	}
	for name, c := range map[string]struct {
		ds, quota string
		waits     bool
		fill      func(*play) error // uses the quota up
		free      func(*play)       // makes room again
		ask       func(*play) error
	}{
		"aborts":                {serverA, "aborts_an_hour", true, (*play).abortOne, later(hour), (*play).abortOne},
		"moves at the source":   {serverA, "moves_per_hour", true, (*play).abortOne, later(hour), (*play).abortOne},
		"moves at the target":   {serverB, "moves_per_hour", true, (*play).abortOne, later(hour), (*play).abortOne},
		"offers":                {serverB, "offers", true, (*play).ask, later(11 * time.Minute), (*play).ask},
		"offers of a room":      {serverB, "offers_per_room", true, (*play).ask, later(11 * time.Minute), (*play).ask},
		"staged":                {serverB, "staged", false, staged, decided, (*play).ask},
		"staged of a user":      {serverB, "staged_per_user", false, staged, decided, (*play).ask},
		"staged of a room":      {serverB, "staged_per_room", false, staged, decided, (*play).ask},
		"staged of both":        {serverB, "staged_per_user_in_room", false, staged, decided, (*play).ask},
		"staged from a source":  {serverB, "staged_per_source", false, staged, decided, (*play).ask},
		"groups":                {serverB, "groups", false, bound, raised, (*play).ask},
		"groups of a user":      {serverB, "groups_per_user", false, bound, raised, (*play).ask},
		"groups of a room":      {serverB, "groups_per_room", false, bound, raised, (*play).ask},
		"groups of both":        {serverB, "groups_per_user_in_room", false, bound, raised, (*play).ask},
		"groups staged":         {serverB, "groups_per_user", false, staged, raised, (*play).ask},
		"groups when reserving": {serverB, "groups", false, bound, raised, reserve},
		"reserved by a user":    {serverB, "reserved_per_user", false, reserve, raised, reserve},
		"reserved in a room":    {serverB, "reserved_per_room", false, reserve, raised, reserve},
		"bytes": {serverA, "bytes_per_day", true,
			func(p *play) error {
				p.allow(serverA, `{"quotas":{"bytes_per_day":600}}`)
				return p.speak(alice)
			},
			later(24 * time.Hour), func(p *play) error { return p.speak(alice) }},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			p.allow(c.ds, fmt.Sprintf(`{"quotas":{%q:1}}`, c.quota))
			if err := c.fill(p); err != nil {
				t.Fatal(err)
			}
			kind := mimiport.KindForbidden
			if c.waits {
				kind = mimiport.KindQuota
			}
			err := c.ask(p)
			expectKind(t, err, kind)
			if info := asError(err).Info; info.Rule != c.quota || (info.RetryAfter > 0) != c.waits {
				t.Errorf("refused with %+v, want %s", info, c.quota)
			}
			c.free(p)
			if err := c.ask(p); err != nil {
				t.Errorf("when there is room: %v", err)
			}
		})
	}
}

// speak sends an application message of 300 bytes or so to A.
func (p *play) speak(user string) error {
	_, err := p.submit(serverA, user, &api.SubmitRequest{Message: p.group.Application([]byte(user), 300)})
	return err
}

// TestBytesOfOneUser: the server counts bytes by user. It does not count repeated or refused messages.
func TestBytesOfOneUser(t *testing.T) {
	p := newPlay(t)
	p.allow(serverA, `{"quotas":{"bytes_per_day":500}}`)
	same := p.group.Application(nil, 100)
	for range 4 {
		must(p.submit(serverA, alice, &api.SubmitRequest{Message: same}))(t)
	}
	expectKind(t, p.speak(alice), mimiport.KindQuota)
	expectKind(t, p.speak(alice), mimiport.KindQuota)
	if err := p.speak(bob); err != nil {
		t.Errorf("another user: %v", err)
	}
	log := must(p.services[serverA].Messages(t.Context(), caller(bob), p.id, api.MessagesQuery{}))(t)
	if n := len(log.Messages); n != 2 {
		t.Errorf("%d messages are in the log", n)
	}
}

// TestAbortsOfOneMember: the aborted moves of one member keep no other member from moving the group.
func TestAbortsOfOneMember(t *testing.T) {
	p := newPlay(t)
	p.allow(serverB, `{"target":"joined_servers"}`)
	for range policy.Default().Quotas.AbortsAnHour {
		if err := p.abortOne(); err != nil {
			t.Fatal(err)
		}
	}
	expectKind(t, p.abortOne(), mimiport.KindQuota)
	p.move(serverA, serverB, alice)
	p.expectHosted(serverB, 1)
}

// TestQuotasUnderLoad: concurrent requests get exactly the free places of a quota.
func TestQuotasUnderLoad(t *testing.T) {
	p := newPlay(t)
	for name, c := range map[string]struct {
		asked int
		want  int64
		ask   func(n int) error
	}{
		"offers": {300, 20, func(n int) error { // for n groups
			request := &mimiport.MigrationRequest{SourceDomain: serverA, TargetDomain: serverB, GroupID: fmt.Append(nil, n)}
			_, err := p.services[serverB].RequestMigration(t.Context(), caller(bob), &api.MigrationRequestRequest{
				MigrationRequest: must(request.Marshal())(t), RoomID: room,
			})
			return err
		}},
		"reservations": {400, 100, func(int) error {
			_, err := p.services[serverB].ReserveGroup(t.Context(), caller(bob), &api.ReserveGroupRequest{RoomID: room})
			return err
		}},
	} {
		var got atomic.Int64
		var wait sync.WaitGroup
		for n := range c.asked {
			wait.Go(func() {
				if c.ask(n) == nil {
					got.Add(1)
				}
			})
		}
		wait.Wait()
		if got.Load() != c.want {
			t.Errorf("%d %s of %d asked for at once, want %d", got.Load(), name, c.asked, c.want)
		}
	}
}

// TestStoredPolicyOfAnEarlierVersion: a stored policy without a newer quota or mode gets the default of that quota or
// mode, and an operator can change it.
func TestStoredPolicyOfAnEarlierVersion(t *testing.T) {
	p := newPlay(t)
	stored := []byte(`{"source":"nobody","target":"nobody","quotas":{"groups":7}}`)
	if err := p.stores[serverA].PutSetting(t.Context(), "policy", stored); err != nil {
		t.Fatal(err)
	}
	p.allow(serverA, `{"recover":true}`)
	got := must(p.services[serverA].Policy(t.Context()))(t)
	want := policy.Default().Quotas
	want.Groups = 7
	if got.Source != policy.SourceNobody || got.Quotas != want {
		t.Errorf("got %+v", got)
	}
}

// ask asks B for an offer.
func (p *play) ask() error {
	_, err := p.request(serverA, serverB, bob, nil)
	return err
}

// reserved binds another group at a server.
func (p *play) reserved(ds, user string) error {
	r, err := p.services[ds].ReserveGroup(p.t.Context(), caller(user), &api.ReserveGroupRequest{RoomID: room})
	if err != nil {
		return err
	}
	g := mlstest.New(mlstest.Options{Seed: 3, GroupID: r.GroupID, Members: [][]byte{mlstest.Identity(user, "DEVICE")}})
	_, err = p.services[ds].BindGroup(p.t.Context(), caller(user), r.GroupID, &api.BindGroupRequest{
		Protocol: "mls10", GroupInfo: g.GroupInfo(), RatchetTree: g.RatchetTree(),
	})
	return err
}

// TestReserveQuota: a server hands out ids within the quota of groups. A user who binds none of them gets 100 at most.
func TestReserveQuota(t *testing.T) {
	p := newPlay(t)
	p.allow(serverA, `{"quotas":{"groups":2}}`)
	if err := p.reserved(serverA, alice); err != nil {
		t.Fatal(err)
	}
	expectRule(t, p.reserved(serverA, alice), "groups")
	p.allow(serverA, `{"preset":"default"}`)
	for range 100 {
		must(p.services[serverA].ReserveGroup(t.Context(), caller(alice), &api.ReserveGroupRequest{RoomID: room}))(t)
	}
	expectRule(t, p.reserved(serverA, alice), "reserved_per_user")
}

// TestBindMembers: only a member can bind a group, and only if all members are in the room.
func TestBindMembers(t *testing.T) {
	p := newPlay(t)
	for name, members := range map[string][]string{"not the caller": {bob}, "not in the room": {alice, carol}} {
		r := must(p.services[serverA].ReserveGroup(t.Context(), caller(alice), &api.ReserveGroupRequest{RoomID: room}))(t)
		o := mlstest.Options{GroupID: r.GroupID}
		for _, m := range members {
			o.Members = append(o.Members, mlstest.Identity(m, "DEVICE"))
		}
		g := mlstest.New(o)
		_, err := p.services[serverA].BindGroup(t.Context(), caller(alice), r.GroupID, &api.BindGroupRequest{
			Protocol: "mls10", GroupInfo: g.GroupInfo(), RatchetTree: g.RatchetTree(),
		})
		if mimiport.KindOf(err) != mimiport.KindForbidden {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAdminMoves: "`server_admin`" (profile, section 8) holds for the user who began the migration, also in checks
// after the user's call.
func TestAdminMoves(t *testing.T) {
	p := newPlay(t)
	p.allow(serverA, `{"source":"server_admin"}`)
	a := p.mustRequest(serverA, serverB, bob)
	_, err := p.initiate(a)
	expectKind(t, err, mimiport.KindForbidden)
	must(p.services[serverA].InitMigration(t.Context(), api.Caller{UserID: bob, Server: serverB, Admin: true}, a.id,
		a.init))(t)
	p.run()
	p.expect(a, "moved", "active")
}

// TestPromisesNeedNoQuota: a quota that is used up stops none of these: the decision on a vote, the activation at the
// target, and a Remove that the server proposes.
func TestPromisesNeedNoQuota(t *testing.T) {
	p := newPlay(t)
	if err := p.reserved(serverB, bob); err != nil {
		t.Fatal(err)
	}
	p.lost = func(_, what string) bool {
		if what == "vote" {
			p.allow(serverA, `{"quotas":{"bytes_per_day":1}}`)
			p.allow(serverB, `{"quotas":{"groups":1,"members":1}}`)
		}
		return false
	}
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "moved", "active")

	p = newExternalPlay(t)
	p.allow(serverA, `{"quotas":{"bytes_per_day":1}}`)
	p.leave(serverA, carol)
	p.expectProposals(serverA, 1)
}

// TestTargetInRoom: "T must have a joined user in the room unless `require_room: false`" (profile, section 8).
func TestTargetInRoom(t *testing.T) {
	p := newPlay(t)
	p.allow(serverB, `{"target":"joined_servers"}`)
	p.Room.Joined[bob] = false
	_, err := p.request(serverA, serverB, alice, nil)
	expectKind(t, err, mimiport.KindForbidden)
	p.allow(serverB, `{"require_room":false}`)
	if _, err := p.request(serverA, serverB, alice, nil); err != nil {
		t.Error(err)
	}
}

// TestTargetLeavesRoom: if its policy says so, S checks that the target has a joined user in the room: at the Init,
// before the content leaves, and before the decision. T checks the same before its vote.
func TestTargetLeavesRoom(t *testing.T) {
	for name, c := range map[string]struct{ asks, waives, when string }{
		"S before the content":  {serverA, serverB, "begin"},
		"T before its vote":     {serverB, serverA, "content"},
		"S before its decision": {serverA, serverB, "vote"},
		"nobody":                {"", serverA, "content"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			p.allow(serverB, `{"target":"joined_servers"}`)
			p.allow(c.waives, `{"require_room":false}`)
			want := []string{"aborted", "dropped"}
			if c.asks == "" {
				p.allow(serverB, `{"require_room":false}`)
				want = []string{"moved", "active"}
			}
			a := p.begin(serverA, serverB, alice)
			p.Room.Joined[bob] = c.when != "begin"
			p.lost = func(_, what string) bool {
				if what == c.when {
					p.Room.Joined[bob] = false
				}
				return false
			}
			p.run()
			p.expect(a, want[0], want[1])
		})
	}
	p := newPlay(t)
	p.allow(serverB, `{"target":"joined_servers"}`)
	a := p.mustRequest(serverA, serverB, alice)
	p.Room.Joined[bob] = false
	_, err := p.initiate(a)
	expectKind(t, err, mimiport.KindForbidden)
}

// TestRoomShare: one user cannot use up the groups of a room.
func TestRoomShare(t *testing.T) {
	const anna = "@anna:a.example"
	p := newPlay(t) // alice has bound one group
	p.Room.Joined[anna] = true
	p.allow(serverA, `{"quotas":{"groups_per_room":3,"groups_per_user_in_room":2}}`)
	if err := p.reserved(serverA, alice); err != nil {
		t.Fatal(err)
	}
	expectRule(t, p.reserved(serverA, alice), "groups_per_user_in_room")
	if err := p.reserved(serverA, anna); err != nil {
		t.Errorf("another user: %v", err)
	}
	expectRule(t, p.reserved(serverA, anna), "groups_per_room")
}

// TestStagedShare: undecided migrations of one user do not keep others from moving a room's groups.
func TestStagedShare(t *testing.T) {
	p := newPlay(t)
	p.allow(serverB, `{"target":"joined_servers","quotas":{"staged_per_room":2,"staged_per_user_in_room":1}}`)
	p.lost = func(_, what string) bool { return what == "vote" || what == "abort" }
	p.begin(serverA, serverB, bob)
	p.run()
	expectRule(t, p.ask(), "staged_per_user_in_room")
	if _, err := p.request(serverA, serverB, alice, nil); err != nil {
		t.Errorf("another user: %v", err)
	}
}
