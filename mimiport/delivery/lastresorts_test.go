package delivery_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// fallbackKey is a value that a device publishes, with a key that tells it from others.
func fallbackKey(user, key string) json.RawMessage {
	const form = `{"key":%q,"fallback":true,"signatures":{%q:{"io.github.mimiport.ed25519:D":"AAAA"}},"more":[1]}`
	return json.RawMessage(fmt.Sprintf(form, key, user))
}

// A device publishes one KeyPackage of last resort at its own homeserver. Anybody gets it as it is, again and again. It
// goes with the device.
func TestLastResorts(t *testing.T) {
	const host, alice, bob = "a.example", "@alice:a.example", "@bob:b.example"
	store := memory.New()
	w := deliverytest.New(1, map[string]storage.Store{host: store})
	s, ctx := w.Service(host), t.Context()
	of := func(device string) api.Caller {
		c := deliverytest.Caller(alice)
		c.OwnDevice = device
		return c
	}
	put := func(c api.Caller, value json.RawMessage) error {
		_, err := s.PutLastResort(ctx, c, &value)
		return err
	}
	requireClaimed := func(what string, want map[string]json.RawMessage) {
		t.Helper()
		req := &api.ClaimLastResortsRequest{Devices: map[string][]string{alice: {"PHONE", "TABLET"}, bob: {"D"}}}
		got, err := s.ClaimLastResorts(ctx, deliverytest.Caller(bob), req)
		if err != nil {
			t.Fatal(what, err)
		}
		if diff := cmp.Diff(want, got.KeyPackages[alice]); diff != "" || len(got.KeyPackages[bob]) > 0 {
			t.Error(what, diff, got.KeyPackages[bob])
		}
	}

	requireClaimed("none", nil)
	for what, direct := range map[string]api.Caller{
		"over federation": deliverytest.Caller(bob), "by a direct request": {UserID: bob, Server: "b.example", DeviceID: "D"},
	} {
		if err := put(direct, fallbackKey(bob, "AAEABQ")); mimiport.KindOf(err) != mimiport.KindForbidden {
			t.Error(what, err)
		}
	}
	for what, bad := range map[string]string{
		"a list":             `[]`,
		"no key":             `{"fallback":true,"signatures":{"` + alice + `":{"a":"b"}}}`,
		"a key in no base64": string(fallbackKey(alice, "!")),
		"a padded key":       string(fallbackKey(alice, "AA==")),
		"a one-time key":     `{"key":"AAEABQ","signatures":{"` + alice + `":{"a":"b"}}}`,
		"another's":          string(fallbackKey(bob, "AAEABQ")),
	} {
		if err := put(of("PHONE"), json.RawMessage(bad)); mimiport.KindOf(err) != mimiport.KindBadMessage {
			t.Error(what, err)
		}
	}
	requireClaimed("nothing but what was refused", nil)

	first, second, tablets := fallbackKey(alice, "AAEABQ"), fallbackKey(alice, "AAEABg"), fallbackKey(alice, "AAEABw")
	for device, values := range map[string][]json.RawMessage{"PHONE": {first, second}, "TABLET": {tablets}} {
		for _, value := range values {
			if err := put(of(device), value); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		requireClaimed("the last one of each", map[string]json.RawMessage{"PHONE": second, "TABLET": tablets})
	}
	tooMany := &api.ClaimLastResortsRequest{Devices: map[string][]string{alice: make([]string, api.MaxClaimed+1)}}
	if _, err := s.ClaimLastResorts(ctx, of("PHONE"), tooMany); mimiport.KindOf(err) != mimiport.KindTooLarge {
		t.Error(err)
	}

	w.Devices.Delete(alice, "PHONE")
	requireClaimed("of a deleted device", map[string]json.RawMessage{"TABLET": tablets})
	w.Devices.Delete(alice, "TABLET")
	if err := s.DevicesChanged(ctx, alice); err != nil {
		t.Fatal(err)
	}
	if kept, err := store.LastResorts(ctx, alice); len(kept) > 0 || err != nil {
		t.Error("of deleted devices there are", kept, err)
	}
}

// A user cannot fill the database by devices that they add.
func TestLastResortsOfOneUser(t *testing.T) {
	const alice = "@alice:a.example"
	s := deliverytest.New(1, map[string]storage.Store{"a.example": memory.New()}).Service("a.example")
	c, value := deliverytest.Caller(alice), fallbackKey(alice, "AAEABQ")
	for i := range storage.MaxLastResorts + 1 {
		c.OwnDevice = fmt.Sprint(i)
		_, err := s.PutLastResort(t.Context(), c, &value)
		full := i == storage.MaxLastResorts
		if full != (mimiport.KindOf(err) == mimiport.KindForbidden) || !full && err != nil {
			t.Fatal(i, err)
		}
	}
}
