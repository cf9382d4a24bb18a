package delivery_test

import (
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
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

// TestQuotasCount: what the quotas of profile, section 8 count is what the servers hold, and "Aborted freezes count: 3 an hour per group and
// user by default" (section 6).
func TestQuotasCount(t *testing.T) {
	for name, c := range map[string]struct {
		ds, policy string
		fill       func(*play) error // uses the quota up
		free       func(*play)       // and leaves room again
		ask        func(*play) error
	}{
		"aborts": {serverA, `{}`,
			func(p *play) (err error) {
				for range 3 {
					if err == nil {
						err = p.abortOne()
					}
				}
				return err
			},
			func(p *play) { p.now = p.now.Add(time.Hour + time.Second) }, (*play).abortOne},
		"moves at the source": {serverA, `{"quotas":{"moves_per_hour":1}}`, (*play).abortOne,
			func(p *play) { p.now = p.now.Add(time.Hour + time.Second) }, (*play).abortOne},
		"moves at the target": {serverB, `{"quotas":{"moves_per_hour":1}}`, (*play).abortOne,
			func(p *play) { p.now = p.now.Add(time.Hour + time.Second) }, (*play).abortOne},
		"offers": {serverB, `{"quotas":{"offers":1}}`, (*play).ask,
			func(p *play) { p.now = p.now.Add(11 * time.Minute); p.run() }, (*play).ask},
		"staged": {serverB, `{"quotas":{"staged":1}}`,
			func(p *play) error {
				p.lost = func(_, what string) bool { return what == "vote" || what == "abort" }
				p.begin(serverA, serverB, bob)
				p.run()
				return nil
			},
			func(p *play) {
				p.lost = func(string, string) bool { return false }
				p.now = p.now.Add(2 * time.Minute)
				p.run()
			}, (*play).ask},
		"groups": {serverB, `{"quotas":{"groups":1}}`,
			func(p *play) error { return p.reserved(serverB, bob) },
			func(p *play) { p.allow(serverB, `{"quotas":{"groups":2}}`) }, (*play).ask},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			p.allow(c.ds, c.policy)
			if err := c.fill(p); err != nil {
				t.Fatal(err)
			}
			expectKind(t, c.ask(p), mimiport.KindQuota)
			c.free(p)
			if err := c.ask(p); err != nil {
				t.Errorf("when there is room: %v", err)
			}
		})
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

// TestReserveQuota: ids are handed out within the quota of groups, and 100 to one user who binds none.
func TestReserveQuota(t *testing.T) {
	p := newPlay(t)
	p.allow(serverA, `{"quotas":{"groups":2}}`)
	if err := p.reserved(serverA, alice); err != nil {
		t.Fatal(err)
	}
	expectKind(t, p.reserved(serverA, alice), mimiport.KindQuota)
	p.allow(serverA, `{"preset":"default"}`)
	for range 100 {
		must(p.services[serverA].ReserveGroup(t.Context(), caller(alice), &api.ReserveGroupRequest{RoomID: room}))(t)
	}
	expectKind(t, p.reserved(serverA, alice), mimiport.KindQuota)
}

// TestBindMembers: a group is bound by one of its members, and all of them are in the room.
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

// TestAdminMoves: "`server_admin`" (profile, section 8) is asked of who began the migration, also when nobody calls any more.
func TestAdminMoves(t *testing.T) {
	p := newPlay(t)
	p.allow(serverA, `{"source":"server_admin"}`)
	a := p.mustRequest(serverA, serverB, bob)
	_, err := p.initiate(a)
	expectKind(t, err, mimiport.KindForbidden)
	must(p.services[serverA].InitMigration(t.Context(), api.Caller{UserID: bob, Server: serverB, Admin: true}, a.id, a.init))(t)
	p.run()
	p.expect(a, "moved", "active")
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
