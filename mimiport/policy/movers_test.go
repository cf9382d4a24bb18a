package policy_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
)

const host = "a.example"

func serverOf(user string) string { return user[strings.Index(user, ":")+1:] }

// TestMoversAgreeWithDecide: for any policy, room and group, a user is a mover and a server is a target exactly if
// Decide on the source's side lets this user move the group there and the user keeps a leaf. If nobody can move it,
// there is a reason.
func TestMoversAgreeWithDecide(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p, r, g := drawPolicy(rt), drawRoom(rt), drawPlace(rt)
		m := policy.Movers(p, r, g)
		for user, stays := range g.Users {
			for _, target := range []string{"b.example", "c.example", "d.example"} {
				want := stays && policy.Decide(p, facts(r, g, user, target)) == nil
				got := slices.Contains(m.Users, user) && slices.Contains(m.Targets, target)
				if absent(r, target) { // the lists of the policy may still rule it out
					got = want && slices.Contains(m.Users, user) && m.Anywhere
				}
				if got != want {
					rt.Fatalf("%s to %s: movers say %v, Decide says %v: %+v", user, target, got, want, m)
				}
			}
		}
		if !m.Possible() && len(m.Why) == 0 || m.Possible() && m.Own > 0 && len(m.Why) > 0 {
			rt.Fatalf("reasons: %+v", m)
		}
		for _, why := range m.Why {
			if why.Rule == "" || why.Text == "" || why.Remedy == "" {
				rt.Fatalf("incomplete: %+v", why)
			}
		}
	})
}

func absent(r *policy.Room, server string) bool {
	for user := range r.Joined {
		if serverOf(user) == server {
			return false
		}
	}
	return true
}

func facts(r *policy.Room, g *policy.Place, user, target string) *policy.Facts {
	f := &policy.Facts{
		Side: migration.Source, Peer: target, TargetInRoom: !absent(r, target), RoomKnown: r.Levels != nil,
		UserJoined: r.Joined[user], UserServer: serverOf(user),
	}
	if r.Levels != nil {
		f.UserMayPoint = r.Levels.Of(user) >= r.Levels.Pointer
	}
	f.UserAdmin = g.IsLocal(f.UserServer) && g.Admins(user)
	for _, server := range []string{host, target, f.UserServer} {
		if r.Denied[server] {
			f.Denied = append(f.Denied, server)
		}
	}
	return f
}

var everyone = []string{"@u:a.example", "@v:a.example", "@u:b.example", "@v:b.example", "@u:c.example"}

func drawPolicy(rt *rapid.T) *policy.Policy {
	p := policy.Default()
	p.Source = rapid.SampledFrom([]policy.SourceMode{
		policy.SourcePowerLevel, policy.SourceAnyMember, policy.SourceServerAdmin, policy.SourceNobody,
	}).Draw(rt, "source")
	lists := []([]string){nil, {"b.example"}, {"*.example"}, {"c.*", "b.exampl?"}}
	p.AllowServers = rapid.SampledFrom(lists).Draw(rt, "allow")
	p.DenyServers = rapid.SampledFrom(lists).Draw(rt, "deny")
	p.RequireRoom = rapid.Bool().Draw(rt, "require room")
	return &p
}

func drawSet(rt *rapid.T, name string, of []string) map[string]bool {
	set := make(map[string]bool)
	for _, v := range of {
		if rapid.Bool().Draw(rt, name) {
			set[v] = true
		}
	}
	return set
}

func drawRoom(rt *rapid.T) *policy.Room {
	r := &policy.Room{Joined: drawSet(rt, "joined", everyone)}
	r.Denied = drawSet(rt, "denied", []string{host, "b.example", "c.example"})
	if rapid.Bool().Draw(rt, "room known") {
		r.Levels = &policy.Levels{Users: map[string]int64{}, Pointer: 50}
		r.Levels.Default = rapid.SampledFrom([]int64{0, 50}).Draw(rt, "default")
		for user := range drawSet(rt, "power", everyone) {
			r.Levels.Users[user] = rapid.SampledFrom([]int64{0, 50, 100}).Draw(rt, "level")
		}
	}
	return r
}

func drawPlace(rt *rapid.T) *policy.Place {
	g := &policy.Place{Host: host, Users: drawSet(rt, "leaf", everyone), IsLocal: func(s string) bool { return s == host }}
	for user := range g.Users {
		g.Users[user] = rapid.Bool().Draw(rt, "stays")
	}
	admins := drawSet(rt, "admin", everyone)
	g.Admins = func(user string) bool { return admins[user] }
	return g
}

// TestWhyNobodyMoves: each obstacle has its own reason, and users of targets come first.
func TestWhyNobodyMoves(t *testing.T) {
	type (
		P    = *policy.Policy
		R    = *policy.Room
		G    = *policy.Place
		edit = func(P, R, G)
	)
	for name, c := range map[string]struct {
		edit edit
		want string
	}{
		"a user of the target may": {func(P, R, G) {}, ""},
		"host denied":              {func(_ P, r R, _ G) { r.Denied[host] = true }, "host_denied"},
		"source nobody": {func(p P, _ R, _ G) { p.Source = policy.SourceNobody },
			"source_nobody"},
		"no member": {func(_ P, r R, _ G) {
			r.Joined = map[string]bool{"@other:b.example": true}
		}, "no_member"},
		"leaving":      {func(_ P, _ R, g G) { g.Users["@u:b.example"] = false }, "leaving"},
		"users denied": {func(_ P, r R, _ G) { r.Denied["b.example"] = true }, "users_denied"},
		"no admin": {func(p P, _ R, _ G) { p.Source = policy.SourceServerAdmin },
			"no_admin"},
		"no power": {func(_ P, r R, _ G) { r.Levels.Pointer = 101 }, "no_power"},
		"no target": {func(_ P, r R, g G) {
			r.Joined, r.Levels.Default = map[string]bool{"@u:a.example": true}, 100
		}, "no_target"},
		"targets denied": {func(p P, _ R, _ G) { p.DenyServers = []string{"?.EXAMPLE"} },
			"targets_denied"},
		"no own user": {func(_ P, r R, _ G) {
			r.Levels.Users = map[string]int64{"@u:a.example": 100}
		}, "no_own_user"},
	} {
		p := policy.Default()
		r := &policy.Room{
			Levels: &policy.Levels{Users: map[string]int64{"@u:b.example": 100}, Pointer: 100},
			Joined: map[string]bool{"@u:a.example": true, "@u:b.example": true}, Denied: map[string]bool{},
		}
		g := &policy.Place{
			Host: host, Users: maps.Clone(r.Joined), IsLocal: func(s string) bool { return s == host },
			Admins: func(string) bool { return false },
		}
		c.edit(&p, r, g)
		m := policy.Movers(&p, r, g)
		var rules []string
		for _, why := range m.Why {
			rules = append(rules, string(why.Rule))
		}
		if got := strings.Join(rules, " "); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// BenchmarkMovers: one group of 10,000 members.
func BenchmarkMovers(b *testing.B) {
	p := policy.Default()
	r := &policy.Room{
		Levels: &policy.Levels{Users: map[string]int64{"@user7:1.example": 100}, Pointer: 100}, Joined: map[string]bool{},
	}
	for i := range 10_000 {
		r.Joined[fmt.Sprintf("@user%d:%d.example", i, i%100)] = true
	}
	g := &policy.Place{Host: host, Users: r.Joined, IsLocal: func(s string) bool { return s == host }}
	for b.Loop() {
		policy.Movers(&p, r, g)
	}
}
