package hooks

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/matrix-org/gomatrixserverlib/fclient"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
)

const scheme = "ed25519"

// look asks, as a server, about alice's devices. Their leaves have the key "key".
func look(t *testing.T, d *deviceKeys, s *homeserver, user string, ids ...string) ([]delivery.Finding, error) {
	t.Helper()
	var leaves []delivery.LeafKey
	for _, id := range ids {
		leaves = append(leaves, delivery.LeafKey{UserID: user, DeviceID: id, Scheme: scheme, Key: "key"})
	}
	return d.Look(t.Context(), "t.example", s.Name, leaves)
}

func wantFound(t *testing.T, found []delivery.Finding, err error, want ...delivery.Finding) {
	t.Helper()
	if diff := cmp.Diff(want, found); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

// loginWith logs a user in on a device that publishes a key. A nil key is device keys without an MLS key.
func loginWith(t *testing.T, u *harness.User, id string, key []byte) *harness.User {
	t.Helper()
	device, err := u.Login(t.Context(), id)
	wantNone(t, err)
	wantNone(t, device.PublishKey(t.Context(), scheme, key))
	return device
}

// TestLook: this server and another one tell the published key of a device from another key, from no key and from no
// such device. Only this server knows of devices that publish nothing.
func TestLook(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	wantNone(t, s.meets(t, tt))
	alice := s.register(t, "alice")
	loginWith(t, alice, "GOOD", []byte("key"))
	loginWith(t, alice, "OTHER", []byte("another"))
	loginWith(t, alice, "NONE", nil)
	wantNone(t, loginWith(t, alice, "GONE", []byte("key")).Logout(t.Context()))
	_, err := alice.Login(t.Context(), "BARE")
	wantNone(t, err)

	for at, bare := range map[*homeserver]delivery.Finding{s: delivery.KeyMissing, tt: delivery.DeviceUnlisted} {
		d := at.deviceKeys()
		found, err := look(t, d, s, alice.ID, "GOOD", "OTHER", "NONE", "GONE", "BARE", "NEVER")
		wantFound(t, found, err, delivery.KeyPublished, delivery.KeyOther, delivery.KeyMissing, delivery.DeviceUnlisted,
			bare, delivery.DeviceUnlisted)
		found, err = look(t, d, s, "@nobody:s.example", "GOOD")
		wantFound(t, found, err, delivery.DeviceUnlisted)
	}
}

// TestLookAgain: the answer of another server counts for a minute, unless the devices of its user change. Other answers
// are not kept. An unreachable server is KindPeer, and nobody asks it again for a minute.
func TestLookAgain(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	wantNone(t, s.meets(t, tt))
	alice := s.register(t, "alice")
	phone := loginWith(t, alice, "PHONE", []byte("key"))
	d, asked, now := tt.deviceKeys(), 0, time.Now()
	d.now, d.silent.now = func() time.Time { return now }, func() time.Time { return now }
	web := fclient.NewClient(fclient.WithTransport(counted{net, &asked}))
	d.client = federation.NewClient(tt.keys().identity, web, time.Now)
	wantAsked := func(want int) {
		t.Helper()
		if asked != want {
			t.Errorf("asked %d times, want %d", asked, want)
		}
	}
	published := func() {
		t.Helper()
		found, err := look(t, d, s, alice.ID, "PHONE")
		wantFound(t, found, err, delivery.KeyPublished)
	}
	published()
	published()
	wantAsked(1)
	now = now.Add(confirmedFor)
	published()
	wantAsked(2)
	wantNone(t, phone.Logout(t.Context()))
	published()
	d.forget(alice.ID)
	for range 2 {
		found, err := look(t, d, s, alice.ID, "PHONE")
		wantFound(t, found, err, delivery.DeviceUnlisted)
	}
	wantAsked(4)

	net.set(s.Name, http.NotFoundHandler())
	_, err := look(t, d, s, alice.ID, "PHONE")
	wantKind(t, err, mimiport.KindPeer)
	net.set(s.Name, s.handler)
	_, err = look(t, d, s, alice.ID, "PHONE")
	wantKind(t, err, mimiport.KindPeer)
	wantAsked(5)
	d.silent.spoke(s.Name)
	found, err := look(t, d, s, alice.ID, "PHONE")
	wantFound(t, found, err, delivery.DeviceUnlisted)
}
