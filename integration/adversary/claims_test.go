package adversary

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// claim returns a server's unsigned claim to the group for the next term.
func (g *group) claim(kind mimiport.StepKind, name string) *mimiport.LineageClaim {
	return &mimiport.LineageClaim{Kind: kind, DomainName: name, GroupID: g.id, Term: g.term + 1, Epoch: g.mls.Epoch()}
}

func reclaimNeverMoved(t *testing.T, g *group) {
	names := []string{
		"", g.a.Name, g.c.Name, "S.EXAMPLE", "s.example:8448", "127.0.0.1:8448", "10.0.0.1",
		"[::1]:8448", "a/../b", "127.1",
	}
	for _, name := range names {
		for _, kind := range []mimiport.StepKind{mimiport.StepReclaim, mimiport.StepRecover} {
			by := stranger(t, name)
			lineage := claimed(t, g.lineage(t), by, g.claim(kind, name), keyObject(t, by, nil))
			for _, answer := range g.show(t, g.a, lineage) {
				answer.requireRefused(t, name)
			}
		}
	}
}

func reclaimForDownHost(t *testing.T, g *group) {
	g.move(t, g.bob, bobLeaf, g.b)
	l := g.lineage(t)
	if err := g.a.Kill(); err != nil {
		t.Fatal(err)
	}
	by := stranger(t, g.a.Name)
	lineage := claimed(t, l, by, g.claim(mimiport.StepReclaim, g.a.Name), keyObject(t, by, nil))
	for _, answer := range g.show(t, g.b, lineage) {
		answer.requireRefused(t, "a reclaim in the name of a server that is down")
	}
	if err := g.a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func recoverLive(t *testing.T, g *group) {
	g.set(t, g.a, map[string]any{"accept_claims": true})
	claim := g.claim(mimiport.StepRecover, g.c.Name)
	lineage := claimed(t, g.lineage(t), g.c.SigningIdentity, claim, keyObject(t, g.c.SigningIdentity, nil))
	for _, answer := range g.show(t, g.a, lineage) {
		answer.requireRefused(t, "a recover that nobody supports")
	}
	if kinds := g.evidence(t, g.a); !slices.Contains(kinds, string(migration.EvidenceContested)) {
		t.Errorf("the operator sees the evidence %q", kinds)
	}
}

func expiredKey(t *testing.T, g *group) {
	stolen := stranger(t, g.c.Name)
	past := map[*fclient.SigningIdentity]time.Time{stolen: time.Now().AddDate(-1, 0, 0)}
	object := keyObject(t, g.c.SigningIdentity, past)
	g.c.lies(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/_matrix/key/v2/server" {
			return false
		}
		_, _ = w.Write(object)
		return true
	})
	h := g.newHoax(t, g.room, nil)
	h.stage(t, time.Now().Add(time.Hour))
	h.confirm(t, stolen).requireRefused(t, "the decision by a stolen key")
	h.requireState(t, migration.Staged)
	if a := h.confirm(t, g.c.SigningIdentity); a.status != http.StatusOK {
		t.Errorf("the decision by the source's key: %v", a)
	}
	h.requireState(t, migration.Active)
}

func recoverShownToStaged(t *testing.T, g *group) {
	h := g.newHoax(t, g.room, nil)
	h.stage(t, time.Now().Add(time.Hour))
	staged := h.group()
	staged.term = 0
	for _, server := range []*harness.Server{g.a, g.c.Server} { // a third server, and the source
		by, err := server.Identity()
		if err != nil {
			t.Fatal(err)
		}
		lineage := claimed(t, &h.state.Lineage, by, staged.claim(mimiport.StepRecover, server.Name), nil)
		for _, answer := range staged.show(t, g.b, lineage) {
			answer.requireRefused(t, "a recover by "+server.Name)
		}
		h.requireState(t, migration.Staged)
	}
	if a := h.confirm(t, g.c.SigningIdentity); a.status != http.StatusOK {
		t.Errorf("the decision after them: %v", a)
	}
	h.requireState(t, migration.Active)
}

// forgedPointer: mallory sends the room a pointer to a recover by the attacker's server.
func forgedPointer(t *testing.T, g *group) {
	signed := claimed(t, g.lineage(t), g.c.SigningIdentity, g.claim(mimiport.StepRecover, g.c.Name), nil)
	l, err := mimiport.UnmarshalLineage(signed)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(l.Steps[0].Claim.Message)
	pointer := api.Pointer{
		RoomID: g.room, GroupID: g.id, ClaimHash: hash[:], Via: g.c.Name, Term: 1, Epoch: g.mls.Epoch(),
	}
	err = g.mallory.SetState(harness.Within(t), g.room, api.EventPointer, pointer)
	harness.RequireRefused(t, err, "M_FORBIDDEN")
	for _, answer := range g.show(t, g.a, signed) {
		answer.requireRefused(t, "a recover that the room does not support")
	}
}

// forgedReceipt shows the host receipts for a Commit that it has not accepted, under keys that are not its own.
func forgedReceipt(t *testing.T, g *group) {
	for _, by := range []*fclient.SigningIdentity{g.c.SigningIdentity, stranger(t, g.a.Name)} {
		m := harness.Signed(t, by, &mimiport.CommitReceipt{GroupID: g.id, Epoch: 9, Seq: 9})
		in := &api.LineageRequest{Receipt: &api.SignedInfo{Message: m.Message, KeyID: m.KeyID}}
		for _, query := range []string{as(g.mallory), ""} {
			g.peer(t, g.c.SigningIdentity, g.a, http.MethodPut, g.path("/lineage")+query, in).requireRefused(t, "a receipt")
		}
	}
}

// foreignHandOver: the attacker's server, as the source, hands bob's server a group that alice's server hosts.
func foreignHandOver(t *testing.T, g *group) {
	l := *g.lineage(t)
	h := g.newHoax(t, g.room, g.id)
	h.state.Lineage = l
	h.put(t, g.b, time.Now().Add(time.Hour)).requireRefused(t, "a chain that ends at another server")

	claim := &mimiport.LineageClaim{Kind: mimiport.StepRecover, DomainName: g.c.Name, GroupID: g.id, Term: 1}
	longer, err := mimiport.UnmarshalLineage(claimed(t, &l, g.c.SigningIdentity, claim, nil))
	if err != nil {
		t.Fatal(err)
	}
	h = g.newHoax(t, g.room, g.id)
	h.state.Lineage = *longer
	h.put(t, g.b, time.Now().Add(time.Hour)).requireRefused(t, "a chain that ends with a recover")
}

// secondContent: the attacker's server sends two contents, and then both outcomes, for one offer.
func secondContent(t *testing.T, g *group) {
	h := g.newHoax(t, g.room, nil)
	h.stage(t, time.Now().Add(time.Hour))
	first := *h.state
	h.state.Unknown = append(h.state.Unknown, mimiport.Section{Type: 0x7fff, Data: make([]byte, 1<<20)})
	h.put(t, g.b, time.Now().Add(time.Hour)).requireRefused(t, "a second content")
	*h.state = first
	if a := h.confirm(t, g.c.SigningIdentity); a.status != http.StatusOK {
		t.Errorf("the decision: %v", a)
	}
	abort := harness.Signed(
		t, g.c.SigningIdentity, &mimiport.MigrationAbort{MigrationID: h.response.ID(), SourceDomain: g.c.Name},
	)
	route := "/migrations/" + h.id + "/abort"
	g.peer(t, g.c.SigningIdentity, g.b, http.MethodPut, route, abort).requireRefused(t, "the abort after it")
	h.requireState(t, migration.Active)
	kinds := h.group().evidence(t, g.b)
	for _, want := range []migration.EvidenceKind{migration.EvidenceSecondContent, migration.EvidenceBothOutcomes} {
		if !slices.Contains(kinds, string(want)) {
			t.Errorf("the operator sees the evidence %q, without %s", kinds, want)
		}
	}
}

// toC gives mallory the power to move the group, and moves it to the attacker's server.
func (g *group) toC(t *testing.T) {
	t.Helper()
	if err := g.alice.SetPowerLevel(harness.Within(t), g.room, g.mallory.ID, 100); err != nil {
		t.Fatal(err)
	}
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error { // the host may hear of it later
		var levels struct{ Users map[string]int }
		if err := g.bob.State(ctx, g.room, "m.room.power_levels", &levels); err != nil {
			return err
		}
		if levels.Users[g.mallory.ID] != 100 {
			return errors.New("bob's homeserver does not know mallory's power level")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	g.move(t, g.mallory, malloryLeaf, g.c.Server)
}

func poorArchive(t *testing.T, g *group) {
	g.toC(t)
	poor := *g.lineage(t)
	poor.Preimage = nil
	poor.Steps = slices.Clone(poor.Steps)
	for i := range poor.Steps {
		step := &poor.Steps[i]
		for _, m := range []*mimiport.SignedMessage{&step.Response, &step.Confirmation, &step.Vote} {
			m.KeyObject = []byte(`{"a":1}`)
		}
	}
	o := g.offer(t, g.alice, g.a)
	c := commitTo(t, g.mls, aliceLeaf, o)
	h := &hoax{g.arena, o, &mimiport.GroupState{
		Base:    mimiport.BaseState{Protocol: protocol, GroupInfo: g.mls.GroupInfo(), RatchetTree: g.mls.RatchetTree()},
		Commit:  mimiport.CommitState{Commit: c.Message, GroupInfo: c.GroupInfo},
		Lineage: poor,
	}, c.Next}
	h.put(t, g.a, time.Now().Add(time.Hour)).requireRefused(t, "content with a poor archive")
}

func archiveIsWhole(t *testing.T, g *group) {
	goesOn(t, g)
	for _, s := range []*harness.Server{g.a, g.b} {
		l, err := mimiport.UnmarshalLineage(g.where(t, g.alice, s).Lineage)
		if err != nil {
			t.Fatal(err)
		}
		if l.Preimage == nil {
			t.Errorf("%s has lost the preimage", s.Name)
		}
		for i := range l.Steps {
			if object := string(l.Steps[i].Confirmation.KeyObject); object == `{"a":1}` {
				t.Errorf("%s has kept the key object %s", s.Name, object)
			}
		}
	}
}

// operate sends a request about the group to a server's admin API, as its administrator.
func (g *group) operate(t *testing.T, s *harness.Server, method, route string, in any) {
	t.Helper()
	path := adminapi.PathPrefix + g.path(route)
	if err := g.root[s].Do(harness.Within(t), method, path, in, nil); err != nil {
		t.Fatalf("%s %s: %v", method, route, err)
	}
}

// recover recovers the group at a server from a lineage and the GroupInfo, as its administrator.
func (g *group) recover(t *testing.T, s *harness.Server, lineage []byte) {
	t.Helper()
	g.set(t, s, map[string]any{"recover": true})
	g.operate(t, s, http.MethodPost, "/recover", &adminapi.RecoverRequest{
		RecoverRequest: api.RecoverRequest{
			BindGroupRequest: api.BindGroupRequest{
				Protocol: protocol, GroupInfo: g.mls.GroupInfo(), RatchetTree: g.mls.RatchetTree(),
			},
			Lineage: lineage,
		},
		HostIsLost: true, AlthoughItAnswers: true,
	})
}

func restoredWhileAway(t *testing.T, g *group) {
	g.move(t, g.bob, bobLeaf, g.b)
	putBack := harness.BackUp(t, g.a)
	g.move(t, g.alice, aliceLeaf, g.a)
	g.commit(t, g.alice, aliceLeaf)
	shown := g.where(t, g.bob, g.a).Lineage
	putBack()

	if err := g.ask(t, g.bob, http.MethodPut, g.path("/lineage"), &api.LineageRequest{Lineage: shown}, nil); err != nil {
		t.Error(err)
	}
	if kinds := g.evidence(t, g.a); !slices.Contains(kinds, string(migration.EvidenceOwnForgotten)) {
		t.Errorf("the operator sees the evidence %q", kinds)
	}
	err := g.submit(t, g.alice, &api.SubmitRequest{Message: g.mls.Application(nil, 32)})
	harness.RequireRefused(t, err, "IO.GITHUB.MIMIPORT.M_GROUP_STOPPED")
	g.recover(t, g.a, shown)
	g.term++
}

func twoRecovers(t *testing.T, g *group) {
	g.toC(t)
	lineage := g.where(t, g.alice, g.c.Server).Lineage
	g.c.lies(t, func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	g.recover(t, g.a, lineage)
	g.recover(t, g.b, lineage)
	g.term++
	atA, atB := g.where(t, g.alice, g.a).Lineage, g.where(t, g.bob, g.b).Lineage
	show := func(to *harness.Server, lineage []byte) error {
		path := at(to.Name, g.path("/lineage"))
		return g.alice.Do(harness.Within(t), http.MethodPut, path, &api.LineageRequest{Lineage: lineage}, nil)
	}
	const conflict = "IO.GITHUB.MIMIPORT.M_CONFLICT"
	harness.RequireRefused(t, show(g.a, atB), conflict)
	harness.RequireRefused(t, show(g.b, atA), conflict)

	l, err := mimiport.UnmarshalLineage(atA)
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.Sum256(l.Steps[len(l.Steps)-1].Claim.Message)
	pointer := api.Pointer{
		RoomID: g.room, GroupID: g.id, ClaimHash: hash[:], Via: g.a.Name, Term: g.term, Epoch: g.mls.Epoch(),
	}
	if err := g.bob.SetState(harness.Within(t), g.room, api.EventPointer, pointer); err != nil {
		t.Fatal(err)
	}
	if err := show(g.b, atA); err != nil {
		t.Error(err)
	}
	if host := g.where(t, g.bob, g.b); host.DeliveryService != g.a.Name {
		t.Errorf("%s says that the group is at %s", g.b.Name, host.DeliveryService)
	}
	harness.RequireRefused(t, show(g.a, atB), conflict)
	g.host = g.a
}

// borrowedVote: the attacker's server hosts the group, and gets b's vote for another group. It puts that vote beside
// b's offer for this group. It shows this chain to b, and to a, which has recovered the group.
func borrowedVote(t *testing.T, g *group) {
	g.move(t, g.bob, bobLeaf, g.b)
	g.toC(t)
	l := g.lineage(t)
	o := g.offer(t, g.bob, g.b)
	decision := harness.Signed(t, g.c.SigningIdentity, &mimiport.MigrationConfirmation{
		DomainName: g.b.Name, Nonce: o.response.Nonce, GroupID: g.id,
	})
	h := g.newHoax(t, g.room, nil)
	var vote api.SignedRequest
	if a := h.put(t, g.b, time.Now().Add(time.Hour)); json.Unmarshal(a.body, &vote) != nil || len(vote.Vote) == 0 {
		t.Fatalf("the answer to the content is %v", a)
	}
	g.c.lies(t, func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	g.recover(t, g.a, encode(t, l))
	for _, borrowed := range [][]byte{nil, vote.Message, vote.Vote} {
		step := mimiport.LineageStep{
			Kind:         mimiport.StepMigration,
			Response:     mimiport.SignedMessage{Message: encode(t, o.response), KeyID: o.keyID},
			Confirmation: mimiport.SignedMessage{Message: decision.Message, KeyID: decision.KeyID},
		}
		if borrowed != nil {
			step.Vote = mimiport.SignedMessage{Message: borrowed, KeyID: vote.KeyID}
		}
		longer := *l
		longer.Steps = append(slices.Clone(l.Steps), step)
		for _, answer := range g.show(t, g.a, encode(t, &longer)) {
			answer.requireRefused(t, "a borrowed vote against a recover")
		}
		g.show(t, g.b, encode(t, &longer))
		if host := g.where(t, g.bob, g.b); host.DeliveryService != g.c.Name {
			t.Errorf("%s says that the group is at %s", g.b.Name, host.DeliveryService)
		}
	}
	g.host, g.term = g.a, g.term+1
	if host := g.where(t, g.alice, g.a); host.DeliveryService != g.a.Name || host.Term != g.term {
		t.Errorf("%s says that the group is at %s in term %d", g.a.Name, host.DeliveryService, host.Term)
	}
}

// goesOnClaimed is goesOn for a recovered group.
func goesOnClaimed(t *testing.T, g *group) {
	g.set(t, g.b, map[string]any{"accept_claims": true})
	goesOn(t, g)
}
