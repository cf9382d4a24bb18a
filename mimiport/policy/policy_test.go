package policy_test

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
)

const (
	serverA = "a.example"
	serverB = "b.example"
)

// source makes facts that the default policy allows on the source. edit changes them.
func source(edit func(*policy.Facts)) *policy.Facts {
	f := &policy.Facts{
		Side: migration.Source, RoomKnown: true, UserJoined: true, UserMayPoint: true, UserServer: serverB,
		UserServerInRoom: true, Peer: serverB, TargetInRoom: true,
	}
	edit(f)
	return f
}

// target makes facts that the default policy allows on the target. edit changes them.
func target(edit func(*policy.Facts)) *policy.Facts {
	return source(func(f *policy.Facts) {
		f.Side, f.Peer, f.UserLocal = migration.Target, serverA, true
		edit(f)
	})
}

// TestDecide has rows for each rule of the profile, section 8. A row changes the default policy or the facts in one
// place, or in both, and names the decision.
func TestDecide(t *testing.T) {
	type rule = func(*policy.Policy)
	type fact = func(*policy.Facts)
	const forbidden, allowed = mimiport.KindForbidden, mimiport.KindInternal
	same, usual := func(*policy.Policy) {}, func(*policy.Facts) {}
	mode := func(m policy.SourceMode) rule { return func(p *policy.Policy) { p.Source = m } }
	targets := func(m policy.TargetMode, creators ...string) rule {
		return func(p *policy.Policy) { p.Target, p.Creators = m, creators }
	}
	servers := func(allowed, denied []string) rule {
		return func(p *policy.Policy) { p.AllowServers, p.DenyServers = allowed, denied }
	}
	anyRoom := func(p *policy.Policy) { p.RequireRoom = false }
	draft := func(p *policy.Policy) { *p = policy.Draft() }
	noPower := func(f *policy.Facts) { f.UserMayPoint = false }
	remote := func(f *policy.Facts) { f.UserLocal = false }
	admin := func(f *policy.Facts) { f.UserAdmin = true }
	b := []string{serverB}
	for name, c := range map[string]struct {
		facts  func(fact) *policy.Facts
		policy rule
		edit   fact
		want   mimiport.Kind
	}{
		"source default":                 {source, same, usual, allowed},
		"source default, no power":       {source, same, noPower, forbidden},
		"source default, not joined":     {source, same, func(f *policy.Facts) { f.UserJoined = false }, forbidden},
		"source default, ACL":            {source, same, func(f *policy.Facts) { f.Denied = []string{serverB} }, forbidden},
		"source default, no target user": {source, same, func(f *policy.Facts) { f.TargetInRoom = false }, forbidden},
		"any member, no power":           {source, mode(policy.SourceAnyMember), noPower, allowed},
		"server admin, a user":           {source, mode(policy.SourceServerAdmin), usual, forbidden},
		"server admin, an admin":         {source, mode(policy.SourceServerAdmin), admin, allowed},
		"source nobody":                  {source, mode(policy.SourceNobody), admin, forbidden},
		"denied server":                  {source, servers(nil, b), usual, forbidden},
		"not an allowed server":          {source, servers([]string{"c.example"}, nil), usual, forbidden},
		"an allowed server":              {source, servers(b, nil), usual, allowed},
		"allowed and denied":             {source, servers(b, b), usual, forbidden},
		"room not required":              {source, anyRoom, func(f *policy.Facts) { f.TargetInRoom = false }, allowed},
		"target default":                 {target, same, usual, allowed},
		"target default, remote user":    {target, same, remote, forbidden},
		"joined servers, remote user":    {target, targets(policy.TargetJoinedServers), remote, allowed},
		"joined servers, not in room": {
			target, targets(policy.TargetJoinedServers), func(f *policy.Facts) { f.UserServerInRoom = false }, forbidden,
		},
		"any creator, remote user":  {target, targets(policy.TargetAnyCreator), remote, forbidden},
		"any creator, named server": {target, targets(policy.TargetAnyCreator, serverB), remote, allowed},
		"target nobody":             {target, targets(policy.TargetNobody), usual, forbidden},
		"foreign id, local user":    {target, same, func(f *policy.Facts) { f.ForeignID = true }, allowed},
		"foreign id, remote user": {target, targets(policy.TargetJoinedServers), func(f *policy.Facts) {
			f.ForeignID, f.UserLocal = true, false
		}, forbidden},
		"too many members": {target, same, func(f *policy.Facts) { f.Members = 50_001 }, forbidden},
		"target cannot see the room": {target, anyRoom, func(f *policy.Facts) {
			f.RoomKnown, f.UserJoined = false, false
		}, allowed},
		"draft: any member": {source, draft, noPower, allowed},
		"draft: a creator":  {target, draft, usual, allowed},
		"draft: no quotas":  {target, draft, func(f *policy.Facts) { f.Members = 1_000_000 }, allowed},
	} {
		t.Run(name, func(t *testing.T) {
			p := policy.Default()
			c.policy(&p)
			err := policy.Decide(&p, c.facts(c.edit))
			if got := mimiport.KindOf(err); got != c.want || (err == nil) != (c.want == allowed) {
				t.Errorf("got %v, want kind %d", err, c.want)
			}
		})
	}
}

// TestDecideClose: a user who may move a group away may close it. The target's rules play no part.
func TestDecideClose(t *testing.T) {
	for name, c := range map[string]struct {
		source policy.SourceMode
		facts  policy.Facts
		may    bool
	}{
		"may not point":          {policy.SourcePowerLevel, policy.Facts{RoomKnown: true, UserJoined: true}, false},
		"not joined":             {policy.SourceAnyMember, policy.Facts{RoomKnown: true}, false},
		"any member":             {policy.SourceAnyMember, policy.Facts{RoomKnown: true, UserJoined: true}, true},
		"a member, room unknown": {policy.SourceAnyMember, policy.Facts{}, true},
		"an administrator":       {policy.SourceServerAdmin, policy.Facts{UserAdmin: true}, true},
		"no administrator":       {policy.SourceServerAdmin, policy.Facts{UserMayPoint: true}, false},
		"nobody, may point":      {policy.SourceNobody, policy.Facts{UserMayPoint: true}, false},
		"a denied peer":          {policy.SourceAnyMember, policy.Facts{Peer: "denied.example"}, true},
		"joined, may point": {
			policy.SourcePowerLevel, policy.Facts{RoomKnown: true, UserJoined: true, UserMayPoint: true}, true,
		},
	} {
		p := policy.Policy{Source: c.source, DenyServers: []string{"denied.example"}}
		err := policy.DecideClose(&p, &c.facts)
		if may := err == nil; may != c.may || !may && mimiport.KindOf(err) != mimiport.KindForbidden {
			t.Errorf("%s: %v", name, err)
		}
	}
}
