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

// hosted is a pair in a room of carol's, whose homeserver is a Synapse: with the limits that it sets its peers.
type hosted struct {
	*pair
	synapse *harness.Server
	carol   *harness.User
}

// TestSynapse: a room that a user of a Synapse has made has a group elsewhere, in each version that both sides have.
// Devices there are added by what they publish, and are removed when they are deleted, or their users kicked or gone.
// They get what TestUnmodifiedReceiver says of Dendrite, also when their homeserver was away.
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

// newHosted has carol make a room of a version, alice the group in it, with bob and then carol for its other members.
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

// requireRemovals checks that leaves of devices on the Synapse go when they should.
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

// requireRemoved waits until the Delivery Service proposes a removal, and commits it.
func (h *hosted) requireRemoved(t *testing.T, left int) {
	t.Helper()
	harness.Do(t, h.bob, "wait_for", harness.Args{"kind": "state", "pending_proposals": 1}, nil)
	harness.Do(t, h.bob, "update", nil, nil)
	h.requireMembers(t, left)
}

// requireMembers checks how many leaves the group has, and waits until bob has found each of them to be its device's by
// the key that this publishes.
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
			return fmt.Errorf("there are %d members, not %d, and %d are verified: %+v", len(members), n, verified, members)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// requireAllAfterAbsence has the group talk, move and talk on while carol's Synapse is down. It checks that all that
// the logs have comes to her afterwards, in their order and without a gap: the group can be followed by that alone. The
// evidence of the move verifies with the key for which the Synapse vouches (profile, sections 2, 6 and 7).
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
	slices.SortFunc(got, func(a, b event) int { // the two servers do not wait for each other
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
		t.Fatal("no event shows the move")
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

// logged is what the homeserver of a member has in its log of a term, from a number on, as events of that server.
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
			t.Fatalf("%s has message %d after %d", host, m.Seq, from)
		}
		events = append(events, event{federation.SenderID(host), api.FanOut{
			GroupID: h.id(t), RoomID: h.Room, Protocol: "mls10", Term: term, LogMessage: m,
		}})
	}
	return events
}

// notarizedKey is a server's key as a Synapse gives it, which has signed it besides the server.
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

// TestSynapseDenied: while the room's ACL denies a Synapse, its user is refused and gets nothing. Ports do not count
// for an ACL, so that the Synapse has an address for a name.
func TestSynapseDenied(t *testing.T) {
	n := harness.NewTestNetwork(t)
	a := n.StartServer(t, strings.Replace(harness.Section, "{allow_private", "{allow_ip_literals: true, allow_private", 1))
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

// requireAnswer waits until alice's server answers carol's, which asks for the group in her name, with a status.
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
