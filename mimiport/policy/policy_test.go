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

// source and target are facts that the default policy allows.
func source(edit func(*policy.Facts)) *policy.Facts {
	f := &policy.Facts{
		Side: migration.Source, RoomKnown: true, UserJoined: true, UserMayPoint: true, UserServer: serverB, UserServerInRoom: true,
		Peer: serverB, TargetInRoom: true,
	}
	edit(f)
	return f
}

func target(edit func(*policy.Facts)) *policy.Facts {
	return source(func(f *policy.Facts) {
		f.Side, f.Peer, f.UserLocal = migration.Target, serverA, true
		edit(f)
	})
}

// TestDecide has a row for each rule of profile, section 8: what the policy says, and that it says otherwise when only the one
// fact changes.
func TestDecide(t *testing.T) {
	type rule = func(*policy.Policy)
	type fact = func(*policy.Facts)
	const forbidden, allowed = mimiport.KindForbidden, mimiport.KindInternal
	same := func(*policy.Policy) {}
	for name, c := range map[string]struct {
		facts  func(fact) *policy.Facts
		policy rule
		edit   fact
		want   mimiport.Kind
	}{
		"source default":                   {source, same, func(*policy.Facts) {}, allowed},
		"source default, no power":         {source, same, func(f *policy.Facts) { f.UserMayPoint = false }, forbidden},
		"source default, not joined":       {source, same, func(f *policy.Facts) { f.UserJoined = false }, forbidden},
		"source default, ACL":              {source, same, func(f *policy.Facts) { f.Denied = []string{serverB} }, forbidden},
		"source default, target not there": {source, same, func(f *policy.Facts) { f.TargetInRoom = false }, forbidden},
		"any member, no power":             {source, func(p *policy.Policy) { p.Source = policy.SourceAnyMember }, func(f *policy.Facts) { f.UserMayPoint = false }, allowed},
		"server admin, a user":             {source, func(p *policy.Policy) { p.Source = policy.SourceServerAdmin }, func(*policy.Facts) {}, forbidden},
		"server admin, an admin":           {source, func(p *policy.Policy) { p.Source = policy.SourceServerAdmin }, func(f *policy.Facts) { f.UserAdmin = true }, allowed},
		"source nobody":                    {source, func(p *policy.Policy) { p.Source = policy.SourceNobody }, func(f *policy.Facts) { f.UserAdmin = true }, forbidden},
		"denied server":                    {source, func(p *policy.Policy) { p.DenyServers = []string{serverB} }, func(*policy.Facts) {}, forbidden},
		"not an allowed server":            {source, func(p *policy.Policy) { p.AllowServers = []string{"c.example"} }, func(*policy.Facts) {}, forbidden},
		"an allowed server":                {source, func(p *policy.Policy) { p.AllowServers = []string{serverB} }, func(*policy.Facts) {}, allowed},
		"allowed and denied":               {source, func(p *policy.Policy) { p.AllowServers, p.DenyServers = []string{serverB}, []string{serverB} }, func(*policy.Facts) {}, forbidden},
		"room not required":                {source, func(p *policy.Policy) { p.RequireRoom = false }, func(f *policy.Facts) { f.TargetInRoom = false }, allowed},
		"target default":                   {target, same, func(*policy.Facts) {}, allowed},
		"target default, remote user":      {target, same, func(f *policy.Facts) { f.UserLocal = false }, forbidden},
		"joined servers, remote user":      {target, func(p *policy.Policy) { p.Target = policy.TargetJoinedServers }, func(f *policy.Facts) { f.UserLocal = false }, allowed},
		"joined servers, not in room":      {target, func(p *policy.Policy) { p.Target = policy.TargetJoinedServers }, func(f *policy.Facts) { f.UserServerInRoom = false }, forbidden},
		"any creator, remote user":         {target, func(p *policy.Policy) { p.Target = policy.TargetAnyCreator }, func(f *policy.Facts) { f.UserLocal = false }, forbidden},
		"any creator, named server":        {target, func(p *policy.Policy) { p.Target, p.Creators = policy.TargetAnyCreator, []string{serverB} }, func(f *policy.Facts) { f.UserLocal = false }, allowed},
		"target nobody":                    {target, func(p *policy.Policy) { p.Target = policy.TargetNobody }, func(*policy.Facts) {}, forbidden},
		"foreign id, local user":           {target, same, func(f *policy.Facts) { f.ForeignID = true }, allowed},
		"foreign id, remote user":          {target, func(p *policy.Policy) { p.Target = policy.TargetJoinedServers }, func(f *policy.Facts) { f.ForeignID, f.UserLocal = true, false }, forbidden},
		"too many members":                 {target, same, func(f *policy.Facts) { f.Members = 50_001 }, forbidden},
		"target cannot see the room":       {target, func(p *policy.Policy) { p.RequireRoom = false }, func(f *policy.Facts) { f.RoomKnown, f.UserJoined = false, false }, allowed},
		"draft: any member":                {source, func(p *policy.Policy) { *p = policy.Draft() }, func(f *policy.Facts) { f.UserMayPoint = false }, allowed},
		"draft: a creator":                 {target, func(p *policy.Policy) { *p = policy.Draft() }, func(*policy.Facts) {}, allowed},
		"draft: no quotas":                 {target, func(p *policy.Policy) { *p = policy.Draft() }, func(f *policy.Facts) { f.Members = 1_000_000 }, allowed},
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

// TestDecideClose: whoever may move a group away may close it, wherever it could move to.
func TestDecideClose(t *testing.T) {
	for name, c := range map[string]struct {
		source policy.SourceMode
		facts  policy.Facts
		may    bool
	}{
		"who may point":            {policy.SourcePowerLevel, policy.Facts{RoomKnown: true, UserJoined: true, UserMayPoint: true}, true},
		"who may not":              {policy.SourcePowerLevel, policy.Facts{RoomKnown: true, UserJoined: true}, false},
		"who has left":             {policy.SourceAnyMember, policy.Facts{RoomKnown: true}, false},
		"any member":               {policy.SourceAnyMember, policy.Facts{RoomKnown: true, UserJoined: true}, true},
		"a member, room unknown":   {policy.SourceAnyMember, policy.Facts{}, true},
		"an administrator":         {policy.SourceServerAdmin, policy.Facts{UserAdmin: true}, true},
		"no administrator":         {policy.SourceServerAdmin, policy.Facts{UserMayPoint: true}, false},
		"nobody, who may point":    {policy.SourceNobody, policy.Facts{UserMayPoint: true}, false},
		"a denied peer is no peer": {policy.SourceAnyMember, policy.Facts{Peer: "denied.example"}, true},
	} {
		p := policy.Policy{Source: c.source, DenyServers: []string{"denied.example"}}
		err := policy.DecideClose(&p, &c.facts)
		if may := err == nil; may != c.may || !may && mimiport.KindOf(err) != mimiport.KindForbidden {
			t.Errorf("%s: %v", name, err)
		}
	}
}
