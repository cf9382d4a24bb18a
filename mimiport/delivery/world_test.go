package delivery_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

const (
	serverA = "a.example"
	serverB = "b.example"
	room    = "!room:a.example"
	alice   = "@alice:a.example"
	bob     = "@bob:b.example"
)

// world is two Delivery Services with in-memory stores, one room that both see, and a network between them that a test can cut.
type world struct {
	t        *testing.T
	now      time.Time
	rooms    *fakeRooms
	services map[string]*delivery.Service
	stores   map[string]storage.Store
	keys     map[string]ed25519.PrivateKey
	retired  map[string][]retired       // keys that were rotated away, the oldest first
	got      []delivered                // what devices received, in order
	lost     func(to, what string) bool // what the network swallows
	draft    string                     // a server that speaks only the draft: it activates what it imports
	verified func()                     // called when a server is asked for its keys, if not nil
	silent   map[string]bool            // servers that cannot be asked for their keys

	knows sync.Mutex
	known map[[2]string]map[string]proof.Key // by server and server: the keys that the first has been given by the second
}

// delivered is a fan-out event that reached a device.
type delivered struct {
	user, device string
	api.FanOut
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, now: time.Unix(1_700_000_000, 0).UTC(), services: map[string]*delivery.Service{},
		stores: map[string]storage.Store{}, keys: map[string]ed25519.PrivateKey{},
		rooms: &fakeRooms{joined: map[string]bool{alice: true, bob: true}, power: map[string]int64{alice: 100, bob: 100}},
	}
	w.lost = func(string, string) bool { return false }
	limits := delivery.DefaultLimits()
	limits.Wait = 0 // the outbox runs when the test says so, not while a request waits
	for i, name := range []string{serverA, serverB} {
		w.keys[name] = w.keyOf(name)
		w.stores[name] = memory.New()
		w.services[name] = delivery.New(delivery.Deps{
			Server: name, IsLocal: func(s string) bool { return s == name },
			Engines: map[string]mls.Engine{"mls10": mls.RFC9420(mls.DefaultLimits()), draft09.Protocol: draft09.New()},
			Store:   w.stores[name], Keys: fakeKeys{w, name}, Rooms: w.rooms, Sender: fakeSender{w},
			Now: func() time.Time { return w.now }, Rand: rand.NewChaCha8([32]byte{byte(i)}), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
			DefaultPolicy: policy.Default(), Limits: limits,
		})
	}
	return w
}

// keyOf is a server's signing key.
func (w *world) keyOf(server string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(server))
	return ed25519.NewKeyFromSeed(seed[:])
}

// run does due rows, everywhere, until nothing is due. Rows that fail are tried again when time has passed.
func (w *world) run() {
	w.t.Helper()
	for range 1000 {
		if !w.runOnce() {
			return
		}
	}
	w.t.Fatal("the outbox does not come to rest")
}

func (w *world) runOnce() (worked bool) {
	w.t.Helper()
	for _, name := range slices.Sorted(maps.Keys(w.services)) {
		if err := w.stores[name].Hasten(w.t.Context(), w.now); err != nil {
			w.t.Fatal(err)
		}
		rows, _, err := w.stores[name].Due(w.t.Context(), w.now, 100)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, row := range rows {
			worked = true
			if err := w.services[name].Do(w.t.Context(), row); err != nil {
				w.t.Logf("%s: %s to %s: %v", name, row.Kind, row.Destination, err)
				if err := w.stores[name].Retry(w.t.Context(), row.Key(), row.Attempts+1, w.now.Add(time.Second)); err != nil {
					w.t.Fatal(err)
				}
			}
		}
	}
	return worked
}

// caller is a user as their own homeserver vouches for them.
func caller(user string) api.Caller {
	_, server, _ := strings.Cut(user, ":")
	return api.Caller{UserID: user, Server: server}
}

// fakeRooms is one room.
type fakeRooms struct {
	mu        sync.Mutex
	joined    map[string]bool
	power     map[string]int64
	denied    []string // servers that the room's ACL denies
	strangers []string // users without a local account
	state     map[string]json.RawMessage
}

func (r *fakeRooms) Standing(_ context.Context, roomID, userID string) (delivery.Standing, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if roomID != room {
		return delivery.Standing{}, nil
	}
	return delivery.Standing{Exists: true, Joined: r.joined[userID], Power: r.power[userID], PointerLevel: 100}, nil
}

func (r *fakeRooms) NotJoined(_ context.Context, roomID string, users []string) (missing []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range users {
		if roomID != room || !r.joined[u] {
			missing = append(missing, u)
		}
	}
	return missing, nil
}

func (r *fakeRooms) ServerJoined(_ context.Context, roomID, server string) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for u, in := range r.joined {
		if in && roomID == room && strings.HasSuffix(u, ":"+server) {
			return true, nil
		}
	}
	return false, nil
}

func (r *fakeRooms) Denied(_ context.Context, _ string, servers []string) (denied []string, err error) {
	for _, server := range servers {
		if slices.Contains(r.denied, server) {
			denied = append(denied, server)
		}
	}
	return denied, nil
}

func (r *fakeRooms) State(_ context.Context, _, eventType string) (json.RawMessage, error) {
	return r.state[eventType], nil
}

func (r *fakeRooms) StateInForce(_ context.Context, _, eventType string) (json.RawMessage, error) {
	return r.state[eventType], nil
}

func (r *fakeRooms) SendState(context.Context, string, string, string, any) error { return nil }

func (r *fakeRooms) LocalAccount(_ context.Context, userID string) (bool, error) {
	return !slices.Contains(r.strangers, userID), nil
}

// retired is a key that was current until a time.
type retired struct {
	key   ed25519.PrivateKey
	until time.Time
}

// rotate gives a server another key.
func (w *world) rotate(server string) {
	if w.retired == nil {
		w.retired = map[string][]retired{}
	}
	w.retired[server] = append(w.retired[server], retired{w.keys[server], w.now})
	w.keys[server] = w.keyOf(server + w.keyID(server))
}

// keyID is the id of a server's current key: ed25519:1 for its first.
func (w *world) keyID(server string) string {
	return fmt.Sprintf("ed25519:%d", len(w.retired[server])+1)
}

// fakeKeys signs with the world's keys; each server has one at a time.
type fakeKeys struct {
	w      *world
	server string
}

func (k fakeKeys) Sign(server string, m mimiport.Signed) (string, error) {
	if server != k.server {
		return "", fmt.Errorf("%s has no key of %s", k.server, server)
	}
	return k.w.keyID(server), mimiport.Sign(m, k.w.keys[server])
}

// Live implements proof.Keys. What a server has been given once it knows from then on.
func (k fakeKeys) Live(_ context.Context, server string, _ []string) (map[string]proof.Key, error) {
	if k.w.verified != nil {
		k.w.verified()
	}
	if k.w.keys[server] == nil || k.w.silent[server] {
		return nil, mimiport.Errorf("fetch keys", mimiport.KindPeer, "%s cannot be asked", server)
	}
	found, err := proof.KeyObject(server, k.w.keyObject(server))
	if err != nil {
		return nil, err
	}
	k.w.knows.Lock()
	defer k.w.knows.Unlock()
	if k.w.known == nil {
		k.w.known = map[[2]string]map[string]proof.Key{}
	}
	place := [2]string{k.server, server}
	if k.w.known[place] == nil {
		k.w.known[place] = map[string]proof.Key{}
	}
	maps.Copy(k.w.known[place], found)
	return found, nil
}

// VerifyOwn implements delivery.Keys.
func (k fakeKeys) VerifyOwn(server, keyID string, m mimiport.Signed) error {
	if server != k.server {
		return fmt.Errorf("%s is not a name of %s", server, k.server)
	}
	_, err := proof.Verify(k.w.t.Context(), k, server, keyID, m, time.Time{}, proof.Live)
	return err
}

// Known implements proof.Keys.
func (k fakeKeys) Known(_ context.Context, server string) (map[string]proof.Key, error) {
	k.w.knows.Lock()
	defer k.w.knows.Unlock()
	return maps.Clone(k.w.known[[2]string{k.server, server}]), nil
}

func (k fakeKeys) KeyObject(_ context.Context, server, _ string) ([]byte, error) {
	return k.w.keyObject(server), nil
}

// keyObject is what a server publishes: its key, and those before.
func (w *world) keyObject(server string) []byte {
	var old []prooftest.Pair
	for i, r := range w.retired[server] {
		old = append(old, prooftest.Pair{ID: fmt.Sprintf("ed25519:%d", i+1), Key: r.key, Until: r.until})
	}
	current := prooftest.Pair{ID: w.keyID(server), Key: w.keys[server], Until: w.now.Add(7 * 24 * time.Hour)}
	return prooftest.KeyObject(server, current, old...)
}

// verify checks that a server has signed m with a key that it has now.
func (w *world) verify(server, keyID string, m mimiport.Signed) error {
	_, err := proof.Verify(w.t.Context(), fakeKeys{w, ""}, server, keyID, m, w.now, proof.Live)
	return err
}

// carry takes something to a server, unless the network swallows it.
func (w *world) carry(to, what string) error {
	if w.lost(to, what) {
		return mimiport.Errorf("network", mimiport.KindPeer, "%s was lost", what)
	}
	return nil
}

// says fails for what the draft does not have, at a server that speaks nothing else.
func (w *world) says(to, what string) error {
	if to == w.draft {
		return mimiport.Errorf(what, mimiport.KindUnsupported, "no such route")
	}
	return w.carry(to, what)
}

// activate makes a target active as the draft has it, without a decision: by one that the world signs for the source.
func (w *world) activate(ctx context.Context, from, to string, id mimiport.MigrationID) error {
	st, err := w.services[to].Migration(ctx, api.Caller{Server: to}, id)
	if err != nil {
		return err
	}
	response, err := mimiport.UnmarshalMigrationResponse(st.MigrationResponse.Message)
	if err != nil {
		return err
	}
	c := &mimiport.MigrationConfirmation{DomainName: to, Nonce: response.Nonce, GroupID: st.GroupID}
	if err := mimiport.Sign(c, w.keys[from]); err != nil {
		return err
	}
	data, err := c.Marshal()
	if err != nil {
		return err
	}
	_, err = w.services[to].ConfirmMigration(ctx, api.Caller{Server: from}, id, &api.SignedRequest{Message: data, KeyID: "ed25519:1"})
	return err
}

// fakeSender calls the other service directly.
type fakeSender struct{ w *world }

func (s fakeSender) ToDevice(_ context.Context, _, to, _ string, devices map[string][]string, content json.RawMessage) error {
	if err := s.w.carry(to, "to-device"); err != nil {
		return err
	}
	for _, user := range slices.Sorted(maps.Keys(devices)) {
		for _, device := range devices[user] {
			d := delivered{user: user, device: device}
			if err := json.Unmarshal(content, &d.FanOut); err != nil {
				return err
			}
			s.w.got = append(s.w.got, d)
		}
	}
	return nil
}

func (s fakeSender) PutContent(ctx context.Context, from, to string, up *api.ContentUpload) (*api.SignedRequest, error) {
	if err := s.w.carry(to, "content"); err != nil {
		return nil, err
	}
	vote, err := s.w.services[to].PutContent(ctx, from, up)
	if err == nil && to == s.w.draft {
		err = s.w.activate(ctx, from, to, up.ID)
	}
	if err == nil {
		err = s.w.carry(from, "vote")
	}
	return vote, err
}

func (s fakeSender) PutConfirmation(ctx context.Context, from, to string, id mimiport.MigrationID, m *api.SignedRequest) error {
	if err := s.w.says(to, "confirmation"); err != nil {
		return err
	}
	_, err := s.w.services[to].ConfirmMigration(ctx, api.Caller{Server: from}, id, m)
	return err
}

func (s fakeSender) PutAbort(ctx context.Context, from, to string, id mimiport.MigrationID, m *api.SignedRequest) error {
	if err := s.w.says(to, "abort"); err != nil {
		return err
	}
	return s.w.services[to].AbortFromSource(ctx, from, id, m)
}

func (s fakeSender) PutLineage(ctx context.Context, from, to string, groupID []byte, req *api.LineageRequest) error {
	if err := s.w.carry(to, "lineage"); err != nil {
		return err
	}
	_, err := s.w.services[to].ShowLineage(ctx, api.Caller{Server: from}, groupID, req)
	return err
}

func (s fakeSender) AskStatus(ctx context.Context, from, to string, id mimiport.MigrationID) (*api.MigrationStatus, error) {
	if err := s.w.says(to, "status"); err != nil {
		return nil, err
	}
	return s.w.services[to].Migration(ctx, api.Caller{Server: from}, id)
}
