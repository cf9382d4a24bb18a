package delivery_test

import (
	"encoding/json"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// source and target are facts that the default policy allows.
func source(edit func(*delivery.Facts)) *delivery.Facts {
	f := &delivery.Facts{
		Side: migration.Source, RoomKnown: true, UserJoined: true, UserMayPoint: true, UserServer: serverB, UserServerInRoom: true,
		Peer: serverB, PeerAllowed: true, TargetInRoom: true,
	}
	edit(f)
	return f
}

func target(edit func(*delivery.Facts)) *delivery.Facts {
	return source(func(f *delivery.Facts) {
		f.Side, f.Peer, f.UserLocal = migration.Target, serverA, true
		edit(f)
	})
}

// TestDecide has a row for each rule of profile, section 8: what the policy says, and that it says otherwise when only the one
// fact changes.
func TestDecide(t *testing.T) {
	type policy = func(*delivery.Policy)
	type fact = func(*delivery.Facts)
	const forbidden, quota, allowed = mimiport.KindForbidden, mimiport.KindQuota, mimiport.KindInternal
	same := func(*delivery.Policy) {}
	for name, c := range map[string]struct {
		facts  func(fact) *delivery.Facts
		policy policy
		edit   fact
		want   mimiport.Kind
	}{
		"source default":                   {source, same, func(*delivery.Facts) {}, allowed},
		"source default, no power":         {source, same, func(f *delivery.Facts) { f.UserMayPoint = false }, forbidden},
		"source default, not joined":       {source, same, func(f *delivery.Facts) { f.UserJoined = false }, forbidden},
		"source default, ACL":              {source, same, func(f *delivery.Facts) { f.PeerAllowed = false }, forbidden},
		"source default, target not there": {source, same, func(f *delivery.Facts) { f.TargetInRoom = false }, forbidden},
		"any member, no power":             {source, func(p *delivery.Policy) { p.Source = delivery.SourceAnyMember }, func(f *delivery.Facts) { f.UserMayPoint = false }, allowed},
		"server admin, a user":             {source, func(p *delivery.Policy) { p.Source = delivery.SourceServerAdmin }, func(*delivery.Facts) {}, forbidden},
		"server admin, an admin":           {source, func(p *delivery.Policy) { p.Source = delivery.SourceServerAdmin }, func(f *delivery.Facts) { f.UserAdmin = true }, allowed},
		"source nobody":                    {source, func(p *delivery.Policy) { p.Source = delivery.SourceNobody }, func(f *delivery.Facts) { f.UserAdmin = true }, forbidden},
		"denied server":                    {source, func(p *delivery.Policy) { p.DenyServers = []string{serverB} }, func(*delivery.Facts) {}, forbidden},
		"not an allowed server":            {source, func(p *delivery.Policy) { p.AllowServers = []string{"c.example"} }, func(*delivery.Facts) {}, forbidden},
		"an allowed server":                {source, func(p *delivery.Policy) { p.AllowServers = []string{serverB} }, func(*delivery.Facts) {}, allowed},
		"allowed and denied":               {source, func(p *delivery.Policy) { p.AllowServers, p.DenyServers = []string{serverB}, []string{serverB} }, func(*delivery.Facts) {}, forbidden},
		"room not required":                {source, func(p *delivery.Policy) { p.RequireRoom = false }, func(f *delivery.Facts) { f.TargetInRoom = false }, allowed},
		"aborted too often":                {source, same, func(f *delivery.Facts) { f.Aborts = 4 }, quota},
		"aborted often":                    {source, same, func(f *delivery.Facts) { f.Aborts = 3 }, allowed},
		"target default":                   {target, same, func(*delivery.Facts) {}, allowed},
		"target default, remote user":      {target, same, func(f *delivery.Facts) { f.UserLocal = false }, forbidden},
		"joined servers, remote user":      {target, func(p *delivery.Policy) { p.Target = delivery.TargetJoinedServers }, func(f *delivery.Facts) { f.UserLocal = false }, allowed},
		"joined servers, not in room":      {target, func(p *delivery.Policy) { p.Target = delivery.TargetJoinedServers }, func(f *delivery.Facts) { f.UserServerInRoom = false }, forbidden},
		"any creator, remote user":         {target, func(p *delivery.Policy) { p.Target = delivery.TargetAnyCreator }, func(f *delivery.Facts) { f.UserLocal = false }, forbidden},
		"any creator, named server":        {target, func(p *delivery.Policy) { p.Target, p.Creators = delivery.TargetAnyCreator, []string{serverB} }, func(f *delivery.Facts) { f.UserLocal = false }, allowed},
		"target nobody":                    {target, func(p *delivery.Policy) { p.Target = delivery.TargetNobody }, func(*delivery.Facts) {}, forbidden},
		"foreign id, local user":           {target, same, func(f *delivery.Facts) { f.ForeignID = true }, allowed},
		"foreign id, remote user":          {target, func(p *delivery.Policy) { p.Target = delivery.TargetJoinedServers }, func(f *delivery.Facts) { f.ForeignID, f.UserLocal = true, false }, forbidden},
		"too many members":                 {target, same, func(f *delivery.Facts) { f.Members = 50_001 }, quota},
		"too many offers":                  {target, same, func(f *delivery.Facts) { f.Offers = 21 }, quota},
		"too many staged":                  {target, same, func(f *delivery.Facts) { f.Staged = 101 }, quota},
		"too many groups":                  {target, same, func(f *delivery.Facts) { f.Groups = 100_001 }, quota},
		"too many moves":                   {target, same, func(f *delivery.Facts) { f.Moves = 61 }, quota},
		"target cannot see the room":       {target, func(p *delivery.Policy) { p.RequireRoom = false }, func(f *delivery.Facts) { f.RoomKnown, f.UserJoined, f.PeerAllowed = false, false, false }, allowed},
		"draft: any member":                {source, func(p *delivery.Policy) { *p = delivery.DraftPolicy() }, func(f *delivery.Facts) { f.UserMayPoint = false }, allowed},
		"draft: a creator":                 {target, func(p *delivery.Policy) { *p = delivery.DraftPolicy() }, func(*delivery.Facts) {}, allowed},
		"draft: no quotas":                 {target, func(p *delivery.Policy) { *p = delivery.DraftPolicy() }, func(f *delivery.Facts) { f.Members, f.Moves = 1_000_000, 1_000_000 }, allowed},
	} {
		t.Run(name, func(t *testing.T) {
			p := delivery.DefaultPolicy()
			c.policy(&p)
			err := delivery.Decide(&p, c.facts(c.edit))
			if got := mimiport.KindOf(err); got != c.want || (err == nil) != (c.want == allowed) {
				t.Errorf("got %v, want kind %d", err, c.want)
			}
		})
	}
}

// TestSetPolicy: what the admin sets is merged, checked, effective at once, and survives a restart; what is wrong changes nothing.
func TestSetPolicy(t *testing.T) {
	w := newWorld(t)
	svc := w.services[serverA]
	for _, bad := range []string{
		`{"source":"everybody"}`, `{"target":""}`, `{"sauce":"nobody"}`, `{"preset":"wild"}`, `{"quotas":{"groups":-1}}`, `[]`, `{`,
		`{"deny_servers":"b.example"}`,
	} {
		_, err := svc.SetPolicy(t.Context(), json.RawMessage(bad))
		expectKind(t, err, mimiport.KindBadMessage)
	}
	if p, err := svc.Policy(t.Context()); err != nil || p.Source != delivery.SourcePowerLevel {
		t.Errorf("after bad requests the policy is %+v, %v", p, err)
	}
	if _, err := svc.SetPolicy(t.Context(), json.RawMessage(`{"source":"nobody","deny_servers":["b.example"]}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.SetPolicy(t.Context(), json.RawMessage(`{"quotas":{"groups":7}}`)); err != nil {
		t.Fatal(err)
	}
	p, err := delivery.New(svc.Deps).Policy(t.Context())
	if err != nil || p.Source != delivery.SourceNobody || len(p.DenyServers) != 1 || p.Quotas.Groups != 7 || p.Quotas.Members != 50_000 {
		t.Errorf("after a restart the policy is %+v, %v", p, err)
	}
}
