package hooks

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
)

// TestPublishedKey: this server asks a homeserver for the key of a device once a minute, unless the user's devices
// change. It asks again each time for a key that is not published. One homeserver gets a bounded number of concurrent
// requests.
func TestPublishedKey(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	wantNone(t, s.meets(t, tt))
	alice := s.register(t, "alice")
	loginWith(t, alice, "PHONE", []byte("key"))
	loginWith(t, alice, "LONG", []byte(strings.Repeat("k", federation.MaxDeviceKey+1)))
	d, asked, now := tt.deviceKeys(), 0, time.Now()
	d.now, d.silent.now = func() time.Time { return now }, func() time.Time { return now }
	web := fclient.NewClient(fclient.WithTransport(counted{net, &asked}))
	d.client = federation.NewClient(tt.keys().identity, web, time.Now)
	key := func(device, scheme string) (string, error) {
		key, err := d.key(t.Context(), tt.Name, api.DirectKey{UserID: alice.ID, DeviceID: device, Scheme: scheme})
		return string(key), err
	}
	published := func(want int) {
		t.Helper()
		if k, err := key("PHONE", scheme); err != nil || k != "key" || asked != want {
			t.Errorf("got %q after asking %d times, want %d (%v)", k, asked, want, err)
		}
	}
	published(1)
	published(1)
	now = now.Add(confirmedFor)
	published(2)
	d.forget(alice.ID)
	published(3)
	for _, none := range [][2]string{{"PHONE", "ed448"}, {"NEVER", scheme}, {"LONG", scheme}} {
		_, err := key(none[0], none[1])
		wantKind(t, err, mimiport.KindBadSignature)
	}
	if asked != 6 {
		t.Errorf("asked %d times", asked)
	}

	d.forget(alice.ID)
	var frees []func()
	for range maxAsking {
		free, _ := d.asking.Take(s.Name)
		frees = append(frees, free)
	}
	_, err := key("PHONE", scheme)
	wantKind(t, err, mimiport.KindQuota)
	for _, free := range frees {
		free()
	}
	published(7)
	d.forget(alice.ID)
	net.set(s.Name, http.NotFoundHandler())
	_, err = key("PHONE", scheme)
	wantKind(t, err, mimiport.KindPeer)
}

// TestLyingHomeserver: a homeserver can give its own users any devices with any keys, as it also speaks for them over
// federation. Its answers do not count for users of another homeserver.
func TestLyingHomeserver(t *testing.T) {
	net := newFabric()
	s, tt := start(t, "s.example", net), start(t, "t.example", net)
	wantNone(t, s.meets(t, tt))
	loginWith(t, s.register(t, "alice"), "PHONE", []byte("key"))
	const alice, mallory = "@alice:s.example", "@mallory:liar.example"
	net.set("liar.example", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		devices := make(map[string]any)
		for _, user := range []string{mallory, alice} {
			devices[user] = map[string]any{"PHONE": map[string]any{
				"user_id": user, "device_id": "PHONE",
				"keys": map[string]string{api.DeviceKeyName(scheme, "PHONE"): base64.RawStdEncoding.EncodeToString([]byte("lie"))},
			}}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"device_keys": devices})
	}))
	d := tt.deviceKeys()
	for user, want := range map[string]string{mallory: "lie", alice: "key"} {
		key, err := d.key(t.Context(), tt.Name, api.DirectKey{UserID: user, DeviceID: "PHONE", Scheme: scheme})
		if err != nil || string(key) != want {
			t.Errorf("the key of %s: %q, %v", user, key, err)
		}
		leaf := delivery.LeafKey{UserID: user, DeviceID: "PHONE", Scheme: scheme, Key: "lie"}
		found, err := d.Look(t.Context(), tt.Name, user[strings.Index(user, ":")+1:], []delivery.LeafKey{leaf})
		if err != nil || (found[0] == delivery.KeyPublished) != (user == mallory) {
			t.Errorf("the leaf of %s: %v, %v", user, found, err)
		}
	}
}

// TestQuestionsOfStrangers: who names users of many homeservers that never answer takes half of the places for
// questions about devices. The others are left for the devices of members.
func TestQuestionsOfStrangers(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	begun, refused := make(chan bool), make(chan bool)
	d := asker(func(ctx context.Context, r *http.Request) (*http.Response, error) {
		if r.URL.Host == "s.example" {
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(`{}`))}, nil
		}
		begun <- true
		<-ctx.Done()
		return nil, ctx.Err()
	})
	var asking sync.WaitGroup
	questions := 0
	for i := range placesAll {
		asking.Go(func() {
			of := api.DirectKey{UserID: fmt.Sprintf("@alice:%d.example", i), DeviceID: "PHONE", Scheme: scheme}
			if _, err := d.key(ctx, "t.example", of); mimiport.KindOf(err) == mimiport.KindQuota {
				refused <- true
			}
		})
		select {
		case <-begun:
			questions++
		case <-refused:
		}
	}
	if questions != placesAll/2 {
		t.Errorf("%d of %d places are taken", questions, placesAll)
	} else {
		leaves := []delivery.LeafKey{{UserID: "@bob:s.example", DeviceID: "D", Scheme: scheme, Key: "key"}}
		_, err := d.Look(t.Context(), "t.example", "s.example", leaves)
		wantNone(t, err)
	}
	cancel()
	asking.Wait()
}
