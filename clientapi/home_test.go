package clientapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
)

const (
	levels = "m.room.power_levels"
)

var (
	groupID   = api.GroupID(group).String()
	bindURI   = "/groups/" + groupID
	nonce     = spec.Base64Bytes(pre.Nonce[:]).Encode()
	bind      = &api.BindGroupRequest{Protocol: "mls10", GroupInfo: []byte{1}}
	forbidden = mimiport.Errorf("send", mimiport.KindForbidden, "no")

	firstPointer = fmt.Sprintf(`{"room_id":"!room","group_id":%q,"via":"ds.example","term":0,"epoch":0}`, groupID)
)

func described() *api.GroupResponse {
	return &api.GroupResponse{
		GroupID: group, RoomID: roomID, Protocol: "mls10", CipherSuite: 1, CreatingServer: other, DeliveryService: other,
		State:    "active",
		Preimage: preimage(), GroupInfo: []byte{1}, TreeHash: []byte{2}, ConfirmedTranscriptHash: []byte{3}, Members: 1,
	}
}

// A user who could not announce a group gets no group id.
func TestReserveNeedsPower(t *testing.T) {
	reserve := &api.ReserveGroupRequest{RoomID: roomID}
	for name, change := range map[string]func(*rooms){
		"not joined":                      func(r *rooms) { r.standing.Joined = false },
		"less than the pointer needs":     func(r *rooms) { r.standing.Power, r.standing.PointerLevel = 40, 50 },
		"less than the reserved level":    func(r *rooms) { r.standing.Power = 99 },
		"no power levels in the room":     func(r *rooms) { delete(r.state, levels) },
		"power levels that do not decode": func(r *rooms) { r.state[levels] = json.RawMessage(`{"events":1}`) },
		"power levels that are null":      func(r *rooms) { r.state[levels] = json.RawMessage(`null`) },
		"power levels that are a list":    func(r *rooms) { r.state[levels] = json.RawMessage(`[]`) },
	} {
		w := newWorld(t)
		change(w.rooms)
		if status, _ := w.call(other, "POST", "/groups", reserve); status != 403 && status != 400 {
			t.Errorf("%s: got %d", name, status)
		}
		if w.remote.reserved != 0 {
			t.Errorf("%s: reserved", name)
		}
	}
	elsewhere := newWorld(t)
	unknown := &api.ReserveGroupRequest{RoomID: "!unknown"}
	elsewhere.expect("a room without the user", 403, "M_FORBIDDEN")(elsewhere.call(other, "POST", "/groups", unknown))
	w := newWorld(t)
	w.rooms.standing.Power = 50
	const set = `{"events":{"io.github.mimiport.group":50,"io.github.mimiport.delivery_service":50}}`
	w.rooms.state[levels] = json.RawMessage(set)
	w.ok("levels set already")(w.call(other, "POST", "/groups", reserve))
}

// After a bind the room names the group, and a user needs power level 100 to change that.
func TestBindAnnounces(t *testing.T) {
	w := newWorld(t)
	w.remote.bound = described()
	w.ok("bind")(w.call(other, "PUT", bindURI, bind))
	w.expectSent(levels, api.EventPointer, api.EventGroup)
	w.expectState(levels, `{"users":{"@alice:hs.example":100},"events":{
		"m.room.name":50,"io.github.mimiport.group":100,"io.github.mimiport.delivery_service":100,
		"io.github.mimiport.successors":100}}`)
	w.expectState(api.EventPointer, firstPointer)
	w.expectState(api.EventGroup, fmt.Sprintf(`{"room_id":"!room","group_id":%q,"protocol":"mls10","cipher_suite":1,
		"preimage":{"creating_server":"ds.example","room_id":"!room","nonce":%q},
		"creating_server":"ds.example"}`, groupID, nonce))
	w.ok("again")(w.call(other, "PUT", bindURI, bind))
	w.expectSent()
}

// "repeated bind repairs missing events"
func TestBindRepairs(t *testing.T) {
	for _, failing := range []string{levels, api.EventPointer, api.EventGroup} {
		w := newWorld(t)
		w.remote.bound = described()
		w.rooms.fail[failing] = forbidden
		w.expect("failing at "+failing, 403, "M_FORBIDDEN")(w.call(other, "PUT", bindURI, bind))
		w.ok("again")(w.call(other, "PUT", bindURI, bind))
		w.expectState(api.EventPointer, firstPointer)
		for _, eventType := range []string{levels, api.EventPointer, api.EventGroup} {
			reserved := strings.Contains(string(w.rooms.state[levels]), `"io.github.mimiport.group":100`)
			if w.rooms.state[eventType] == nil || !reserved {
				t.Errorf("after failing at %s, %s is missing", failing, eventType)
			}
		}
	}
}

// The pointer of a new group in the room begins at term 0, for any pointer of the former group. A repeated bind of the
// same group does not take the pointer back.
func TestBindAndOldPointers(t *testing.T) {
	w := newWorld(t)
	w.remote.bound = described()
	w.rooms.state[api.EventGroup] = json.RawMessage(`{"room_id":"!room","group_id":"CQkJ"}`)
	w.rooms.state[api.EventPointer] = json.RawMessage(`{"via":"old.example","term":4,"epoch":9}`)
	w.ok("another group")(w.call(other, "PUT", bindURI, bind))
	w.expectState(api.EventPointer, firstPointer)

	w.rooms.state[api.EventPointer] = json.RawMessage(`{"via":"new.example","term":1,"epoch":9}`)
	w.rooms.sent = nil
	w.ok("the same group")(w.call(other, "PUT", bindURI, bind))
	w.expectSent()
}

// "A binding copied by a room upgrade is void: its room_id must be the room's."
func TestBindReplacesACopiedBinding(t *testing.T) {
	w := newWorld(t)
	w.remote.bound = described()
	w.rooms.state[api.EventGroup] = json.RawMessage(fmt.Sprintf(`{"room_id":"!before","group_id":%q}`, groupID))
	w.rooms.state[api.EventPointer] = json.RawMessage(`"nonsense"`)
	w.ok("bind")(w.call(other, "PUT", bindURI, bind))
	w.expectSent(levels, api.EventPointer, api.EventGroup)
}

// The binding of a later group names the former group, even after a repeated bind.
func TestBindNamesTheFormer(t *testing.T) {
	w := newWorld(t)
	w.remote.bound = described()
	w.rooms.state[api.EventGroup] = json.RawMessage(`{"room_id":"!room","group_id":"CQkJ"}`)
	w.rooms.fail[api.EventGroup] = forbidden
	w.expect("bind", 403, "M_FORBIDDEN")(w.call(other, "PUT", bindURI, bind))
	for range 2 {
		w.ok("bind")(w.call(other, "PUT", bindURI, bind))
		if sent := string(w.rooms.state[api.EventGroup]); !strings.Contains(sent, `"former":{"group_id":"CQkJ"}`) {
			t.Errorf("the room got %s", sent)
		}
	}
}

// TestBindNamesTheFormerRoom: after a room upgrade, the binding names the group of the room before. It does so only if
// that room names this one as its replacement.
func TestBindNamesTheFormerRoom(t *testing.T) {
	const binding = `{"room_id":"!before","group_id":"CQkJ"}`
	for name, test := range map[string]struct{ create, tombstone, before, want string }{
		"upgraded": {`{"predecessor":{"room_id":"!before"}}`, `{"replacement_room":"!room"}`, binding,
			`"former":{"group_id":"CQkJ","room_id":"!before"}`},
		"no tombstone":      {`{"predecessor":{"room_id":"!before"}}`, ``, binding, ""},
		"replaced by other": {`{"predecessor":{"room_id":"!before"}}`, `{"replacement_room":"!other"}`, binding, ""},
		"no predecessor":    {`{}`, `{"replacement_room":"!room"}`, binding, ""},
		"a copied binding": {`{"predecessor":{"room_id":"!before"}}`, `{"replacement_room":"!room"}`,
			`{"room_id":"!earlier","group_id":"CQkJ"}`, ""},
		"no group": {`{"predecessor":{"room_id":"!before"}}`, `{"replacement_room":"!room"}`, ``, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.remote.bound = described()
			w.rooms.state["m.room.create"] = json.RawMessage(test.create)
			w.rooms.state[api.EventGroup] = json.RawMessage(test.before) // a room upgrade may copy it
			w.rooms.before = map[string]json.RawMessage{}
			for eventType, content := range map[string]string{"m.room.tombstone": test.tombstone, api.EventGroup: test.before} {
				if content != "" {
					w.rooms.before[eventType] = json.RawMessage(content)
				}
			}
			w.ok("bind")(w.call(other, "PUT", bindURI, bind))
			sent := string(w.rooms.state[api.EventGroup])
			if test.want == "" && strings.Contains(sent, "former") || !strings.Contains(sent, test.want) {
				t.Errorf("the room got %s", sent)
			}
		})
	}
}

// A failed bind announces nothing.
func TestFailedBindAnnouncesNothing(t *testing.T) {
	w := newWorld(t)
	w.remote.err = mimiport.Errorf("bind", mimiport.KindConflict, "bound already")
	w.expect("bind", 409, "IO.GITHUB.MIMIPORT.M_CONFLICT")(w.call(other, "PUT", bindURI, bind))
	w.expectSent()
}

// Another server cannot make a user announce a group in another room than the user's choice.
func TestIDsOfAnothersMaking(t *testing.T) {
	for name, change := range map[string]func(*api.Preimage){
		"another room":   func(p *api.Preimage) { p.RoomID = "!other" },
		"another server": func(p *api.Preimage) { p.CreatingServer = here },
		"another nonce":  func(p *api.Preimage) { p.Nonce = make([]byte, mimiport.NonceSize) },
		"a short nonce":  func(p *api.Preimage) { p.Nonce = p.Nonce[:5] },
	} {
		w := newWorld(t)
		w.remote.bound = described()
		change(w.remote.preimage)
		change(w.remote.bound.Preimage)
		reserve := &api.ReserveGroupRequest{RoomID: roomID}
		w.expect(name, 502, "IO.GITHUB.MIMIPORT.M_PEER_UNREACHABLE")(w.call(other, "POST", "/groups", reserve))
		w.expect(name, 502, "IO.GITHUB.MIMIPORT.M_PEER_UNREACHABLE")(w.call(other, "PUT", bindURI, bind))
		w.expectSent()
	}
	w := newWorld(t)
	w.remote.bound = described()
	w.remote.bound.Preimage = nil
	w.expect("no preimage", 502, "IO.GITHUB.MIMIPORT.M_PEER_UNREACHABLE")(w.call(other, "PUT", bindURI, bind))
	w.remote.bound = described()
	w.remote.bound.RoomID = "!other"
	w.expect("another room", 502, "IO.GITHUB.MIMIPORT.M_PEER_UNREACHABLE")(w.call(other, "PUT", bindURI, bind))
	w.expectSent()
}

// migrated makes a finished migration from ds.example to hs.example, with valid evidence.
func migrated(t *testing.T) (mimiport.MigrationID, *api.MigrationStatus) {
	t.Helper()
	return migratedBetween(t, other, here, 7, 1)
}

// movedBack makes the migration back from the target of another one.
func movedBack(t *testing.T, st *api.MigrationStatus) *api.MigrationStatus {
	t.Helper()
	_, back := migratedBetween(t, st.Target, st.Source, st.Epoch+1, st.Term+1)
	return back
}

func migratedBetween(
	t *testing.T, source, target string, epoch, term uint64,
) (mimiport.MigrationID, *api.MigrationStatus) {
	t.Helper()
	offer := &mimiport.MigrationResponse{
		Request: mimiport.MigrationRequest{SourceDomain: source, TargetDomain: target, GroupID: group, Epoch: epoch},
		Nonce:   mimiport.Nonce{5},
	}
	decision := &mimiport.MigrationConfirmation{DomainName: target, Nonce: offer.Nonce, GroupID: group}
	err := errors.Join(mimiport.Sign(offer, key(target)), mimiport.Sign(decision, key(source)))
	response, err1 := offer.Marshal()
	confirmation, err2 := decision.Marshal()
	if err := errors.Join(err, err1, err2); err != nil {
		t.Fatal(err)
	}
	return offer.ID(), &api.MigrationStatus{
		MigrationID: offer.ID().String(), Role: "target", State: "active", GroupID: group, RoomID: roomID,
		Source: source, Target: target, User: alice, Term: term, Epoch: epoch,
		MigrationResponse: &api.SignedInfo{Message: response, KeyID: keyIDs[target]},
		Confirmation:      &api.SignedInfo{Message: confirmation, KeyID: keyIDs[source]},
	}
}

// chain makes the lineage of a group that has moved at epochs 1, 2 and so on.
func chain(t *testing.T, targets ...string) *mimiport.Lineage {
	t.Helper()
	c := newChain(t)
	for i, target := range targets {
		c.Migrate(target, uint64(i+1))
	}
	return &c.Lineage
}

func newChain(t *testing.T) *prooftest.Chain {
	t.Helper()
	return prooftest.NewChain(pre, func(server string, m prooftest.Message) mimiport.SignedMessage {
		err1 := mimiport.Sign(m, key(server))
		encoded, err2 := m.Marshal()
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return mimiport.SignedMessage{Message: encoded, KeyID: keyIDs[server]}
	})
}

// step makes the lineage step of a finished migration.
func step(st *api.MigrationStatus) mimiport.LineageStep {
	return mimiport.LineageStep{
		Kind:         mimiport.StepMigration,
		Response:     mimiport.SignedMessage{Message: st.MigrationResponse.Message, KeyID: st.MigrationResponse.KeyID},
		Confirmation: mimiport.SignedMessage{Message: st.Confirmation.Message, KeyID: st.Confirmation.KeyID},
	}
}

func newMovedWorld(t *testing.T) (*world, string, *api.MigrationStatus) {
	w := newWorld(t)
	id, status := migrated(t)
	const binding = `{"room_id":"!room","group_id":%q,"creating_server":"ds.example"}`
	w.rooms.state[api.EventGroup] = json.RawMessage(fmt.Sprintf(binding, groupID))
	w.pointer(`"via":"ds.example","term":0,"epoch":0`)
	w.local.status, w.remote.status = status, status
	w.remote.lineage = chain(t)
	return w, "/migrations/" + id.String(), status
}

// "H sends it as the migrating user after success."
func TestMoveIsAnnounced(t *testing.T) {
	for _, state := range []string{"decided", "moved", "active"} {
		for _, server := range []string{here, other} {
			for _, call := range []struct {
				method, suffix string
				body           any
			}{
				{"GET", "", nil},
				{"PUT", "/confirmation", &api.SignedRequest{Message: []byte{1}, KeyID: "ed25519:s"}},
				{"PUT", "/init", &api.MigrationInitRequest{
					MigrationInit: []byte{1}, KeyID: "ed25519:t",
					SubmitRequest: api.SubmitRequest{Message: []byte{1}, GroupInfo: []byte{2}},
				}},
			} {
				w, uri, status := newMovedWorld(t)
				status.State = state
				w.ok(call.method + call.suffix)(w.call(server, call.method, uri+call.suffix, call.body))
				w.expectMoved(status)
				w.ok("again")(w.call(server, call.method, uri+call.suffix, call.body))
				w.expectSent()
			}
		}
	}
}

func (w *world) expectMoved(status *api.MigrationStatus) {
	w.t.Helper()
	w.expectSent(api.EventPointer)
	w.expectState(api.EventPointer, fmt.Sprintf(`{"room_id":"!room","group_id":%q,"via":"hs.example","term":1,
		"epoch":8,"migration_id":%q,"evidence":{
		"migration_response":%q,"response_key_id":"ed25519:t",
		"migration_confirmation":%q,"confirmation_key_id":"ed25519:s"}}`,
		groupID, status.MigrationID, status.MigrationResponse.Message.Encode(), status.Confirmation.Message.Encode()))
}

// At the source and at the target, the pointer has the term that the lineage proves, not the term in the other server's
// status. After a pointer with term 2^53-1, no later move could be announced.
func TestTermIsProved(t *testing.T) {
	for name, after := range map[string]func(*mimiport.Lineage, *api.MigrationStatus){
		"the source": func(*mimiport.Lineage, *api.MigrationStatus) {},
		"the target": func(l *mimiport.Lineage, st *api.MigrationStatus) { l.Steps = append(l.Steps, step(st)) },
		"the target, which has gone on since": func(l *mimiport.Lineage, st *api.MigrationStatus) {
			l.Steps = append(l.Steps, step(st), chain(t, here, other).Steps[1])
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, uri, status := newMovedWorld(t)
			after(w.remote.lineage, status)
			status.Term = 1<<53 - 1
			w.ok("status")(w.call(other, "GET", uri, nil))
			w.expectMoved(status)
		})
	}
}

// A group that has moved more often has a higher term.
func TestLaterTermIsProved(t *testing.T) {
	w, uri, status := newMovedWorld(t)
	w.remote.lineage = chain(t, here, other)
	w.pointer(`"via":"ds.example","term":2,"epoch":3`)
	status.Term = 1<<53 - 1
	w.ok("status")(w.call(other, "GET", uri, nil))
	w.expectSent(api.EventPointer)
	if sent := string(w.rooms.state[api.EventPointer]); !strings.Contains(sent, `"term":3,`) {
		t.Errorf("the room got %s", sent)
	}
}

// The pointer keeps the claim that the room supports after a move, because the lost host may come back only then. It
// does not keep a claim that a room upgrade has copied.
func TestMoveKeepsTheClaim(t *testing.T) {
	for room, kept := range map[string]bool{roomID: true, "!before": false} {
		w, uri, status := newMovedWorld(t)
		status.Term = 2
		const pointer = `{"room_id":%q,"group_id":%q,"via":"ds.example","term":1,"epoch":7,"claim_hash":"AQID"}`
		w.rooms.state[api.EventPointer] = json.RawMessage(fmt.Sprintf(pointer, room, groupID))
		w.ok("status")(w.call(here, "GET", uri, nil))
		w.expectSent(api.EventPointer)
		if sent := string(w.rooms.state[api.EventPointer]); strings.Contains(sent, `"claim_hash":"AQID"`) != kept {
			t.Errorf("after a pointer of %s the room got %s", room, sent)
		}
	}
}

// Unless a lineage proves a higher term than the pointer's, nothing is announced.
func TestUnprovedTermIsNotAnnounced(t *testing.T) {
	for name, change := range map[string]func(*world, *mimiport.Lineage){
		"no lineage":         func(_ *world, l *mimiport.Lineage) { *l = mimiport.Lineage{} },
		"another creator":    func(_ *world, l *mimiport.Lineage) { l.CreatingServer, l.Preimage = here, nil },
		"another group's":    func(_ *world, l *mimiport.Lineage) { l.Preimage = &mimiport.GroupIDPreimage{} },
		"it leads elsewhere": func(_ *world, l *mimiport.Lineage) { *l = *chain(t, here) },
		"a step that nobody signed": func(_ *world, l *mimiport.Lineage) {
			*l = *chain(t, here, other)
			confirmation := l.Steps[1].Confirmation.Message
			confirmation[len(confirmation)-1] ^= 1
		},
		"an older term": func(w *world, _ *mimiport.Lineage) { w.pointer(`"via":"ds.example","term":2,"epoch":3`) },
		"another branch than the pointer's": func(w *world, l *mimiport.Lineage) {
			*l = *chain(t, here, other)
			w.pointer(`"via":"else.example","term":1,"epoch":2`)
		},
		"another branch than that of a pointer on its way": func(w *world, l *mimiport.Lineage) {
			*l = *chain(t, here, other)
			w.hold = true
			p := &api.Pointer{RoomID: roomID, GroupID: group, Via: "else.example", Term: 1}
			for range 2 { // the second one does nothing
				if err := w.moves.Announce(t.Context(), alice, p); err != nil {
					t.Fatal(err)
				}
			}
		},
		"a claim that the pointer does not name": func(_ *world, l *mimiport.Lineage) {
			c := newChain(t)
			c.Claim(mimiport.StepRecover, here, 2)
			c.Migrate(other, 3)
			*l = c.Lineage
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, uri, status := newMovedWorld(t)
			status.Term = 1<<53 - 1
			change(w, w.remote.lineage)
			w.ok(name)(w.call(other, "GET", uri, nil))
			w.expectSent()
			if p, err := w.moves.Announcing(t.Context(), group); err != nil || p != nil && p.Term > 1 {
				t.Errorf("%+v waits, %v", p, err)
			}
		})
	}
}

// When the pointer is missing, the group is at its creating server.
func TestMoveIsAnnouncedWithoutPointer(t *testing.T) {
	w, uri, status := newMovedWorld(t)
	delete(w.rooms.state, api.EventPointer)
	w.ok("status")(w.call(other, "GET", uri, nil))
	w.expectMoved(status)
}

// A pointer that names another room or another group hides no move.
func TestMoveIsAnnouncedInPlaceOfAVoidPointer(t *testing.T) {
	for _, void := range []string{
		`{"room_id":"!before","group_id":%q,"via":"ds.example","term":2,"epoch":8}`,
		`{"room_id":"!room","group_id":"CQkJ%.0s","via":"ds.example","term":2,"epoch":8}`,
	} {
		w, uri, status := newMovedWorld(t)
		w.rooms.state[api.EventPointer] = json.RawMessage(fmt.Sprintf(void, groupID))
		w.ok("status")(w.call(other, "GET", uri, nil))
		w.expectMoved(status)
	}
}

// A move is announced after the call, and each move of a group in turn: the second one is from the server to which the
// pointer on its way points. A failure of the host puts the pointers off. Each is sent once, whoever asks meanwhile.
func TestMovesAreAnnouncedInTurn(t *testing.T) {
	w, uri, first := newMovedWorld(t)
	w.hold = true
	w.ok("the first")(w.call(other, "GET", uri, nil))
	w.remote.status = movedBack(t, first)
	w.remote.lineage.Steps = []mimiport.LineageStep{step(first)}
	for range 2 {
		w.ok("the second")(w.call(other, "GET", "/migrations/"+w.remote.status.MigrationID, nil))
	}
	w.expectSent()
	w.rooms.fail[api.EventPointer] = errors.New("the host is away")
	w.announce()
	w.expectSent()
	w.announce()
	w.expectSent(api.EventPointer, api.EventPointer)
	if sent := string(w.rooms.state[api.EventPointer]); !strings.Contains(sent, `"via":"ds.example","term":2,`) {
		t.Errorf("the room got %s", sent)
	}
	w.announce()
	w.expectSent()
}

// A pointer that waits is not sent once the room has a later one. Nothing is wrong then.
func TestLatePointerIsNotSent(t *testing.T) {
	for _, term := range []int{3, 4} {
		log := sentAfter(t, func(w *world) { w.pointer(fmt.Sprintf(`"via":"later.example","term":%d,"epoch":9`, term)) })
		if strings.Contains(log, "was not announced") {
			t.Errorf("after a pointer of term %d: logged %q", term, log)
		}
	}
}

// A pointer that waits is not sent if it does not lead on from what the room says by now. It is sent if the pointer in
// between came meanwhile.
func TestPointerThatDoesNotFollowIsNotSent(t *testing.T) {
	sentAfter(t, func(w *world) { w.pointer(`"via":"claims.example","term":1,"epoch":2,"claim_hash":"AQID"`) })
	sentAfter(t, func(w *world) { w.pointer(`"via":"claims.example","term":2,"epoch":3,"claim_hash":"AQID"`) })
	sentAfter(t, func(w *world) { delete(w.rooms.state, api.EventGroup) })
	sentAfter(t, func(*world) {}, api.EventPointer)
	sentAfter(t, func(w *world) { w.pointer(`"via":"ds.example","term":2,"epoch":3`) }, api.EventPointer)
}

// sentAfter lets the pointer of a third move wait while the room has none of the moves. After a change in the room, the
// outbox must send events of the given types, and nothing may wait any more. It returns the log.
func sentAfter(t *testing.T, change func(*world), types ...string) string {
	t.Helper()
	w, uri, status := newMovedWorld(t)
	w.hold = true
	w.remote.lineage, status.Term = chain(t, here, other), 3
	w.ok("status")(w.call(other, "GET", uri, nil))
	change(w)
	if n := len(w.waiting()); n != 1 {
		t.Fatalf("%d pointers wait", n)
	}
	w.announce()
	w.expectSent(types...)
	if n := len(w.waiting()); n != 0 {
		t.Errorf("%d pointers still wait", n)
	}
	return w.log.String()
}

// The outbox gives a pointer up after a day of failures.
func TestPointerIsGivenUp(t *testing.T) {
	w, uri, _ := newMovedWorld(t)
	w.hold = true
	w.ok("status")(w.call(here, "GET", uri, nil))
	for _, passed := range []time.Duration{24*time.Hour - time.Second, time.Second} {
		w.now = w.now.Add(passed)
		if len(w.waiting()) == 0 {
			t.Error("the pointer does not wait any more")
		}
		w.rooms.fail[api.EventPointer] = errors.New("the host is away")
		w.announce()
	}
	w.expectSent()
	if len(w.waiting()) > 0 || !strings.Contains(w.log.String(), "was not announced in its room") {
		t.Errorf("%d pointers wait, logged %q", len(w.waiting()), &w.log)
	}
}

// The local service has verified the moves of its group, so a pointer that has missed a move does not stop the
// announcement. Another server's lineage shows the moves that the pointer has missed.
func TestMoveIsAnnouncedAfterAMissedOne(t *testing.T) {
	w, uri, status := newMovedWorld(t)
	w.pointer(`"via":"older.example","term":0,"epoch":0`)
	w.ok("status")(w.call(here, "GET", uri, nil))
	w.expectMoved(status)
	for _, pointer := range []string{`"via":"ds.example","term":0,"epoch":0`, `"via":"hs.example","term":1,"epoch":2`} {
		w, uri, status := newMovedWorld(t)
		w.remote.lineage, status.Term = chain(t, here, other), 3
		w.pointer(pointer)
		w.ok("status")(w.call(other, "GET", uri, nil))
		w.expectSent(api.EventPointer)
		if sent := string(w.rooms.state[api.EventPointer]); !strings.Contains(sent, `"term":3,`) {
			t.Errorf("after %s the room got %s", pointer, sent)
		}
	}
}

// "The pointer is advisory …; one that goes backwards or fails to verify is ignored": nothing is sent, and the request
// succeeds.
func TestMoveIsNotAnnounced(t *testing.T) {
	for name, change := range map[string]func(*world, *api.MigrationStatus){
		"not decided":     func(_ *world, st *api.MigrationStatus) { st.State = "frozen" },
		"aborted":         func(_ *world, st *api.MigrationStatus) { st.State = "aborted" },
		"another user's":  func(_ *world, st *api.MigrationStatus) { st.User = "@bob:hs.example" },
		"no confirmation": func(_ *world, st *api.MigrationStatus) { st.Confirmation = nil },
		"no offer":        func(_ *world, st *api.MigrationStatus) { st.MigrationResponse = nil },
		"an older term": func(w *world, _ *api.MigrationStatus) {
			w.pointer(`"via":"ds.example","term":2,"epoch":8`)
		},
		"the same term": func(w *world, _ *api.MigrationStatus) {
			w.pointer(`"via":"ds.example","term":1,"epoch":8`)
		},
		"another room":         func(_ *world, st *api.MigrationStatus) { st.RoomID = "!other" },
		"another group":        func(_ *world, st *api.MigrationStatus) { st.GroupID = []byte{9, 9, 9} },
		"no group in the room": func(w *world, _ *api.MigrationStatus) { delete(w.rooms.state, api.EventGroup) },
		"the host refuses":     func(w *world, _ *api.MigrationStatus) { w.rooms.fail[api.EventPointer] = forbidden },
		"no power":             func(w *world, _ *api.MigrationStatus) { w.hold, w.rooms.standing.Power = true, 49 },
		"not joined":           func(w *world, _ *api.MigrationStatus) { w.hold, w.rooms.standing.Joined = true, false },
	} {
		for _, server := range []string{here, other} {
			testNotAnnounced(t, name+" says "+server, server, change)
		}
	}
}

// A status of another server must also verify.
func TestMoveThatDoesNotVerifyIsNotAnnounced(t *testing.T) {
	for name, change := range map[string]func(*world, *api.MigrationStatus){
		"another source than the pointer's": func(w *world, _ *api.MigrationStatus) {
			w.pointer(`"via":"x","term":0,"epoch":0`)
		},
		"a target that signed no offer": func(_ *world, st *api.MigrationStatus) { st.Target = "evil.example" },
		"a source that did not decide": func(w *world, st *api.MigrationStatus) {
			w.pointer(`"via":"evil.example","term":0,"epoch":0`)
			st.Source = "evil.example"
		},
		"a confirmation of another offer": func(_ *world, st *api.MigrationStatus) {
			decision, err := mimiport.UnmarshalMigrationConfirmation(st.Confirmation.Message)
			if err != nil {
				t.Fatal(err)
			}
			decision.Nonce[0] ^= 1
			if st.Confirmation.Message, err = decision.Marshal(); err != nil {
				t.Fatal(err)
			}
		},
		"another epoch": func(_ *world, st *api.MigrationStatus) { st.Epoch++ },
		"an undecodable offer": func(_ *world, st *api.MigrationStatus) {
			st.MigrationResponse.Message = []byte{1}
		},
		"an undecodable confirmation":     func(_ *world, st *api.MigrationStatus) { st.Confirmation.Message = []byte{1} },
		"an offer signed by nobody":       func(_ *world, st *api.MigrationStatus) { last(st.MigrationResponse)[0] ^= 1 },
		"a confirmation signed by nobody": func(_ *world, st *api.MigrationStatus) { last(st.Confirmation)[0] ^= 1 },
	} {
		testNotAnnounced(t, name, other, change)
	}
}

func testNotAnnounced(t *testing.T, name, server string, change func(*world, *api.MigrationStatus)) {
	t.Run(name, func(t *testing.T) {
		w, uri, status := newMovedWorld(t)
		change(w, status)
		w.ok(name)(w.call(server, "GET", uri, nil))
		w.expectSent()
		if rows := w.waiting(); len(rows) > 0 {
			t.Errorf("%d pointers wait", len(rows))
		}
	})
}

// pointer puts a pointer of the group into the room.
func (w *world) pointer(fields string) {
	const pointer = `{"room_id":"!room","group_id":%q,%s}`
	w.rooms.state[api.EventPointer] = json.RawMessage(fmt.Sprintf(pointer, groupID, fields))
}

// last returns the last byte of a signed message, which is part of its signature.
func last(m *api.SignedInfo) []byte { return m.Message[len(m.Message)-1:] }

// The reason why a move is not announced is logged.
func TestUnannouncedMoveIsLogged(t *testing.T) {
	w, uri, _ := newMovedWorld(t)
	w.rooms.fail[api.EventPointer] = forbidden
	w.ok("status")(w.call(here, "GET", uri, nil))
	if !strings.Contains(w.log.String(), "was not announced in its room") {
		t.Errorf("logged %q", &w.log)
	}
}
