package delivery_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
)

// silence lets servers not answer requests for their keys.
func (w *world) silence(servers ...string) {
	w.Silent = map[string]bool{}
	for _, server := range servers {
		w.Silent[server] = true
	}
}

// state gives the room a state event.
func (w *world) state(eventType string, content any) {
	if w.Room.Events == nil {
		w.Room.Events = map[string]json.RawMessage{}
	}
	w.Room.Events[eventType] = must(json.Marshal(content))(w.t)
}

// forgedClaim is a claim in a server's name under a forged key, with a key object for that key.
func (p *play) forgedClaim(c *mimiport.LineageClaim) mimiport.LineageStep {
	p.t.Helper()
	pair := prooftest.Pair{ID: "ed25519:forged", Key: p.Key("forger"), Until: p.now.Add(time.Hour)}
	if err := mimiport.Sign(c, pair.Key); err != nil {
		p.t.Fatal(err)
	}
	return mimiport.LineageStep{Kind: c.Kind, Claim: &migration.Signed{
		Message: must(c.Marshal())(p.t), KeyID: pair.ID, KeyObject: prooftest.KeyObject(c.DomainName, pair),
	}}
}

// TestForgedReclaim: a forged claim in the name of any server does not end a group that has never moved. That server
// need not exist or answer.
func TestForgedReclaim(t *testing.T) {
	p := newPlay(t)
	p.silence(serverB, "gone.example")
	p.allow(serverA, `{"accept_claims":true}`)
	for _, kind := range []mimiport.StepKind{mimiport.StepReclaim, mimiport.StepRecover} {
		for _, server := range []string{"", serverA, serverB, "A.EXAMPLE", "a.example:8448", "127.0.0.1", "gone.example"} {
			l := p.shown(p.lineage(serverA), func(l *mimiport.Lineage) {
				claim := &mimiport.LineageClaim{Kind: kind, DomainName: server, GroupID: p.id, Term: 1, Epoch: 1}
				l.Steps = append(l.Steps, p.forgedClaim(claim))
			})
			p.point(api.Pointer{Via: server, Term: 1}) // even if the room names the claim: no presented key ends hosting
			if err := p.show(serverA, l); err == nil {
				t.Errorf("a claim of kind %d in the name of %q was taken", kind, server)
			}
			p.expectHosted(serverA, 0)
		}
	}
}

// TestForgedFormerHost: a forged key in the name of a silent former host does not take the group back. The former
// host's key that this server has known since the group came does.
func TestForgedFormerHost(t *testing.T) {
	p := newPlay(t)
	p.move(serverA, serverB, bob)
	p.silence(serverA)
	l := p.lineage(serverB)
	reclaim := &mimiport.LineageClaim{
		Kind: mimiport.StepReclaim, DomainName: serverA, GroupID: p.id, Term: 2, Epoch: p.group.Epoch(),
	}
	forged := p.shown(l, func(l *mimiport.Lineage) { l.Steps = append(l.Steps, p.forgedClaim(reclaim)) })
	expectKind(t, p.show(serverB, forged), mimiport.KindPeer)
	p.expectHosted(serverB, 1)

	must(p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{}))(t)
	p.support(serverA)
	if err := p.show(serverB, p.lineage(serverA)); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverB, serverA, 2)
}

// TestForgedWhileStaged: a forged claim does not end a staged group that waits for its source.
func TestForgedWhileStaged(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "confirmation" }
	before := p.lineage(serverA)
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.silence(serverA)
	forged := p.shown(before, func(l *mimiport.Lineage) {
		l.Steps = append(l.Steps, p.forgedClaim(&mimiport.LineageClaim{
			Kind: mimiport.StepRecover, DomainName: serverA, GroupID: p.id, Term: 1, Epoch: p.group.Epoch(),
		}))
	})
	expectKind(t, p.show(serverB, forged), mimiport.KindPeer)
	p.expect(a, "decided", "staged")
}

// TestFormerHostGone: a group whose former host is gone can move to a server that has never met that host, if the
// room's pointer names the source and its term. The target's log names each key that came with the lineage.
func TestFormerHostGone(t *testing.T) {
	p := newPlay(t)
	p.addThird(`{"target":"joined_servers"}`)
	p.move(serverA, serverB, bob)
	p.silence(serverA)
	a := p.begin(serverB, serverC, bob)
	data := must(p.stores[serverB].Content(t.Context(), a.id))(t)
	for _, place := range []proof.Place{{Server: serverA}, {Server: serverB}, {Server: serverC, Term: 1}} {
		p.point(api.Pointer{Via: place.Server, Term: place.Term})
		expectKind(t, p.put(a, data), mimiport.KindPeer)
	}
	var log bytes.Buffer
	p.services[serverC].Log = slog.New(slog.NewTextHandler(&log, nil))
	p.point(api.Pointer{Via: serverB, Term: 1})
	spoiled := p.resignAs(serverB, data, func(s *mimiport.GroupState) {
		s.Lineage.Steps[0].Confirmation.KeyObject = []byte(`{"a":1}`)
	})
	expectKind(t, p.put(a, spoiled), mimiport.KindPeer)
	p.run()
	p.expect(a, "moved", "active")
	const use = `msg="a lineage rests on a key that came with it" group_id=%s term=1 server=a.example`
	if want := fmt.Sprintf(use, mimiport.IDText(p.id)); !strings.Contains(log.String(), want) {
		t.Errorf("the log has not %q: %s", want, &log)
	}
}

// TestSourceMustBeLive: the source's own signatures count only under a key that the source has now. A known key is not
// enough.
func TestSourceMustBeLive(t *testing.T) {
	p := newPlay(t)
	p.move(serverA, serverB, bob)
	p.point(api.Pointer{Via: serverA, Term: 0})
	a := p.begin(serverB, serverA, alice)
	data := must(p.stores[serverB].Content(t.Context(), a.id))(t)
	p.silence(serverB)
	expectKind(t, p.put(a, data), mimiport.KindPeer)
	p.silence()
	if err := p.put(a, data); err != nil {
		t.Error(err)
	}
}

// TestRecordStays: this server refuses a lineage without the preimage of the group's id. It does not take over invalid
// key objects. Everything that it stores and passes on verifies.
func TestRecordStays(t *testing.T) {
	p := newPlay(t)
	p.move(serverA, serverB, bob)
	a := p.begin(serverB, serverA, alice)
	data := must(p.stores[serverB].Content(t.Context(), a.id))(t)
	without := p.resignAs(serverB, data, func(s *mimiport.GroupState) { s.Lineage.Preimage = nil })
	p.state(api.EventGroup, api.Binding{RoomID: room, GroupID: p.id}) // as the binding of a foreign id
	expectRule(t, p.put(a, without), "lineage")
	spoiled := p.resignAs(serverB, data, func(s *mimiport.GroupState) {
		step := &s.Lineage.Steps[0]
		for _, m := range []*mimiport.SignedMessage{&step.Response, &step.Confirmation, &step.Vote} {
			m.KeyObject = []byte(`{"a":1}`)
		}
	})
	if err := p.put(a, spoiled); err != nil {
		t.Fatal(err)
	}
	g := must(p.stores[serverA].Group(t.Context(), p.id))(t)
	l := must(mimiport.UnmarshalLineage(g.Lineage))(t)
	if l.Preimage == nil {
		t.Error("the preimage is lost")
	}
	for name, of := range map[string]struct {
		server string
		signed *migration.Signed
	}{
		"response":     {serverB, &l.Steps[0].Response},
		"confirmation": {serverA, &l.Steps[0].Confirmation},
		"vote":         {serverB, &l.Steps[0].Vote},
	} {
		published, err := proof.KeyObject(of.server, of.signed.KeyObject)
		if _, ok := published[of.signed.KeyID]; !ok {
			t.Errorf("the key object of the %s: %q (%v)", name, of.signed.KeyObject, err)
		}
	}
}

// TestKnownPreimage: if the room's binding holds the preimage of a group's id, the server takes no lineage without the
// preimage.
func TestKnownPreimage(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	data := must(p.stores[serverA].Content(t.Context(), a.id))(t)
	without := p.resign(data, func(s *mimiport.GroupState) { s.Lineage.Preimage = nil })
	pre := must(mimiport.UnmarshalLineage(p.lineage(serverA).Lineage))(t).Preimage
	p.state(api.EventGroup, api.Binding{
		RoomID: room, GroupID: p.id,
		Preimage: &api.Preimage{CreatingServer: pre.CreatingServer, RoomID: pre.RoomID, Nonce: pre.Nonce[:]},
	})
	expectRule(t, p.put(a, without), "lineage")
	p.run()
	p.expect(a, "moved", "active")
}

// TestForgottenDecision: a server that has forgotten its own decision stops when somebody shows it the decision, even
// if the target is gone. Its own signature is enough proof.
func TestForgottenDecision(t *testing.T) {
	p := newPlay(t)
	p.addThird(`{"target":"joined_servers"}`)
	backup := p.copyOf(serverA)
	p.move(serverA, serverB, bob)
	p.point(api.Pointer{Via: serverB, Term: 1})
	p.move(serverB, serverC, bob)
	l := p.lineage(serverC)
	p.restore(serverA, backup)
	p.ForgetKeys(serverA, serverB)
	p.silence(serverB)
	if err := p.show(serverA, l); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverA, serverB, 1)
	p.expectKept(serverA, migration.EvidenceOwnForgotten)
}
