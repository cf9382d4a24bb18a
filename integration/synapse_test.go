package integration

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/matrix-org/gomatrixserverlib"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// hosted is a pair in a room that carol, a user of a Synapse, has made. The Synapse has its default limits for peers.
type hosted struct {
	*pair
	synapse *harness.Server
	carol   *harness.User
}

// TestSynapse: a room made by a user of a Synapse has a group on a homeserver with the module. The test uses each room
// version that both homeservers support. Members add devices on the Synapse by their published keys. The Delivery
// Service removes devices that are deleted, and devices of users who are kicked or leave. The Synapse's users receive
// the whole fan-out, as in TestUnmodifiedReceiver, also after the Synapse was down.
func TestSynapse(t *testing.T) {
	n := harness.NewTestNetwork(t)
	synapse := n.StartSynapse(t)
	a, b := n.StartServer(t, harness.Section), n.StartServer(t, harness.Section)
	newNamed := func(t *testing.T, version, suffix string) *hosted {
		alice := harness.RegisterUser(t, a, "alice-"+suffix, false)
		bob := harness.RegisterUser(t, b, "bob-"+suffix, false)
		return newHosted(t, harness.RegisterUser(t, synapse, "carol-"+suffix, false), version, alice, bob)
	}
	t.Run("receives", func(t *testing.T) { newPairAt(t, a, b).requireReceives(t, synapse) })
	for _, version := range []string{"10", "11"} {
		t.Run("removals in version "+version, func(t *testing.T) {
			dave := harness.RegisterUser(t, synapse, "dave-"+version, false)
			newNamed(t, version, version).requireRemovals(t, dave)
		})
	}
	t.Run("was away", func(t *testing.T) { newNamed(t, "11", "away").requireAllAfterAbsence(t) })
}

// newHosted lets carol make a room of this version, and alice make a group in it. alice adds bob and carol.
func newHosted(t *testing.T, carol *harness.User, version string, alice, bob *harness.User) *hosted {
	t.Helper()
	room, err := carol.CreateRoomOf(t.Context(), version)
	if err != nil {
		t.Fatal(err)
	}
	harness.Admit(t, carol, room, alice)
	harness.Admit(t, alice, room, bob)
	for _, u := range []*harness.User{alice, bob} {
		if err := carol.SetPowerLevel(t.Context(), room, u.ID, 100); err != nil {
			t.Fatal(err)
		}
	}
	creator := harness.StartTestClient(t, alice)
	p, err := party.Create(harness.Within(t), creator, room)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Add(harness.Within(t), harness.StartTestClient(t, bob)); err != nil {
		t.Fatal(err)
	}
	h := &hosted{&pair{p, p.Members[0], p.Members[1]}, carol.Server, carol}
	publishKeyPackage(t, carol)
	harness.Do(t, h.alice, "add", harness.Args{"user": carol.ID}, nil)
	return h
}

// requireRemovals checks that the leaf of a device on the Synapse goes after a logout, a kick or a leave.
func (h *hosted) requireRemovals(t *testing.T, dave *harness.User) {
	t.Helper()
	harness.Admit(t, h.carol, h.Room, dave)
	phone, err := dave.Login(t.Context(), "PHONE")
	if err != nil {
		t.Fatal(err)
	}
	publishKeyPackage(t, dave)
	publishKeyPackage(t, phone)
	harness.Do(t, h.bob, "add", harness.Args{"user": dave.ID}, nil)
	h.requireMembers(t, 5)
	if err := phone.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.requireRemoved(t, 4)
	if err := h.carol.Kick(t.Context(), h.Room, dave.ID); err != nil {
		t.Fatal(err)
	}
	h.requireRemoved(t, 3)
	if err := h.carol.Leave(t.Context(), h.Room); err != nil {
		t.Fatal(err)
	}
	h.requireRemoved(t, 2)
}

// requireRemoved waits until the Delivery Service proposes a removal. It commits the removal, as bob, and checks that
// left members are left.
func (h *hosted) requireRemoved(t *testing.T, left int) {
	t.Helper()
	harness.Do(t, h.bob, "wait_for", harness.Args{"kind": "state", "pending_proposals": 1}, nil)
	harness.Do(t, h.bob, "update", nil, nil)
	h.requireMembers(t, left)
}

// requireMembers checks that the group has n leaves. It waits until bob's client has verified each leaf by the key that
// its device publishes.
func (h *hosted) requireMembers(t *testing.T, n int) {
	t.Helper()
	h.RequireSettled(t)
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
		var members []struct {
			User     string `json:"user"`
			Device   string `json:"device"`
			Verified string `json:"verified"`
		}
		if err := h.bob.Do(ctx, "members", nil, &members); err != nil {
			return err
		}
		verified := 0
		for _, m := range members {
			if m.Verified == "key" {
				verified++
			}
		}
		if verified != n || len(members) != n {
			return fmt.Errorf("the group has %d members, not %d, and %d are verified: %+v", len(members), n, verified, members)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// requireAllAfterAbsence: the members send, move the group and send again while carol's Synapse is down. Afterwards
// carol receives all messages of the logs, in their order and without a gap, so that her client can follow the group by
// its events only. The evidence of the move verifies with the source's key, which the Synapse notarizes (profile,
// sections 2, 6 and 7).
func (h *hosted) requireAllAfterAbsence(t *testing.T) {
	t.Helper()
	a, b := h.alice.User.Server, h.bob.User.Server
	harness.WhileDown(t, h.synapse, func() error {
		h.Talk(t)
		commit(t, h.alice, h.bob)
		h.Move(t, h.bob, b)
		h.Talk(t)
		return nil
	})
	got := takeEvents(t, h.carol, 7)
	slices.SortFunc(got, func(a, b event) int { // events of the two servers can come in any order
		return slices.Compare([]uint64{a.Term, a.Seq}, []uint64{b.Term, b.Seq})
	})
	if got[0].Kind != "welcome" {
		t.Fatalf("the first event is a %s", got[0].Kind)
	}
	want := append(h.logged(t, h.alice, 0, got[0].Seq+1), h.logged(t, h.bob, 1, 1)...)
	if diff := cmp.Diff(want, got[1:]); diff != "" {
		t.Error(diff)
	}
	i := slices.IndexFunc(got, func(e event) bool { return e.Migration != nil })
	if i < 0 || got[i].Migration.DeliveryService != b.Name {
		t.Fatal("no event has the evidence of the move")
	}
	moved := got[i].Migration
	confirmation, err := mimiport.UnmarshalMigrationConfirmation(moved.MigrationConfirmation)
	if err != nil {
		t.Fatal(err)
	}
	if err := mimiport.Verify(confirmation, notarizedKey(t, h.synapse, a, moved.KeyID)); err != nil {
		t.Error(err)
	}
}

// logged returns the log of a member's homeserver, of a term from a number on, as events of that server.
func (h *hosted) logged(t *testing.T, by *harness.Client, term, from uint64) (events []event) {
	t.Helper()
	var log api.MessagesResponse
	route := fmt.Sprintf("/groups/%s/messages?term=%d&from=%d", h.Group, term, from)
	host := by.User.Server.Name
	if err := by.User.Do(harness.Within(t), http.MethodGet, at(host, route), nil, &log); err != nil {
		t.Fatal(err)
	}
	for i, m := range log.Messages {
		if m.Seq != from+uint64(i) {
			t.Fatalf("%s has message %d instead of %d", host, m.Seq, from+uint64(i))
		}
		events = append(events, event{federation.SenderID(host), api.FanOut{
			GroupID: h.id(t), RoomID: h.Room, Protocol: "mls10", Term: term, LogMessage: m,
		}})
	}
	return events
}

// notarizedKey asks a notary for a server's key, and checks that both have signed the answer.
func notarizedKey(t *testing.T, notary, of *harness.Server, keyID string) ed25519.PublicKey {
	t.Helper()
	query := map[string]any{"server_keys": map[string]any{of.Name: map[string]any{
		keyID: map[string]int64{"minimum_valid_until_ts": time.Now().UnixMilli()},
	}}}
	var answer struct {
		Objects []json.RawMessage `json:"server_keys"`
	}
	anybody := &harness.User{Server: notary}
	if err := anybody.Do(harness.Within(t), http.MethodPost, "/_matrix/key/v2/query", query, &answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.Objects) != 1 {
		t.Fatalf("the notary answers %s", answer.Objects)
	}
	for _, s := range []*harness.Server{notary, of} {
		by := identity(t, s)
		public := by.PrivateKey.Public().(ed25519.PublicKey)
		if err := gomatrixserverlib.VerifyJSON(s.Name, by.KeyID, public, answer.Objects[0]); err != nil {
			t.Errorf("%s has not signed %s: %v", s.Name, answer.Objects[0], err)
		}
	}
	var keys gomatrixserverlib.ServerKeyFields
	if err := json.Unmarshal(answer.Objects[0], &keys); err != nil {
		t.Fatal(err)
	}
	return ed25519.PublicKey(keys.VerifyKeys[gomatrixserverlib.KeyID(keyID)].Key)
}

// TestSynapseDenied: while the room's ACL denies a Synapse, the group's host refuses its user and sends the user
// nothing. An ACL ignores ports, so the name of the Synapse is an IP address.
func TestSynapseDenied(t *testing.T) {
	n := harness.NewTestNetwork(t)
	a := n.StartServer(t, strings.Replace(harness.Section, "allow_ip_literals: false", "allow_ip_literals: true", 1))
	n.Host = "127.0.0.1"
	carol := harness.RegisterUser(t, n.StartSynapse(t), "carol", false)
	h := newHosted(t, carol, "11", harness.RegisterUser(t, a, "alice", false), harness.RegisterUser(t, a, "bob", false))
	client := n.Client()
	t.Cleanup(client.CloseIdleConnections)
	h.requireAnswer(t, client, http.StatusOK)
	h.setACL(t, map[string]any{"allow": []string{"*"}, "deny": []string{"127.*"}})
	h.requireAnswer(t, client, http.StatusForbidden)
	harness.Do(t, h.alice, "update", nil, nil)
	requireNothingDue(t, a, h.synapse.Name)
	h.setACL(t, map[string]any{"allow": []string{"*"}})
	h.requireAnswer(t, client, http.StatusOK)
	h.Talk(t)
	want := map[string][]received{
		federation.SenderID(a.Name): {{0, "welcome", ""}, {0, "application", ""}, {0, "application", ""}},
	}
	if diff := cmp.Diff(want, receive(t, carol, 3)); diff != "" {
		t.Error(diff)
	}
}

// requireAnswer waits until alice's server answers with this status when carol's server asks for the group in her name.
func (h *hosted) requireAnswer(t *testing.T, client *http.Client, status int) {
	t.Helper()
	err := harness.Poll(harness.Within(t), func(context.Context) error {
		r := call(t, identity(t, h.synapse), h.alice.User.Server, http.MethodGet, "/groups/"+h.Group+as(h.carol), nil)
		resp, err := client.Do(r)
		if err != nil {
			return err
		}
		if resp.StatusCode != status {
			err = fmt.Errorf("the answer is %s", resp.Status)
		}
		return errors.Join(err, resp.Body.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}
