// Package deliverytest runs Delivery Services in one process, with one room that all of them see and a network between
// them that loses what a test says, for tests of what several of them store and decide together.
package deliverytest

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Room is the room that all servers and users of a World are in.
const Room = "!room:a.example"

// Engines are those of every server.
func Engines() map[string]mls.Engine {
	engine := mls.RFC9420(mls.DefaultLimits())
	return map[string]mls.Engine{engine.Protocol(): engine}
}

// World is some Delivery Services. It is safe for concurrent use.
type World struct {
	// Lose says whether a request from one server to another gets lost; answer tells that it has arrived, and its
	// answer does not. It must be set before the World is used; nil for none.
	Lose func(from, to string, answer bool) bool

	stores map[string]storage.Store
	seed   uint64

	mu       sync.Mutex
	now      time.Time
	skew     map[string]time.Duration
	starts   uint64
	services map[string]*delivery.Service
	received map[string]map[[32]byte]bool // by user: the hashes of the messages

	published map[string]map[string]proof.Key // by server: its keys
}

// New starts a Delivery Service for each store, by server name. The same seed gives the same nonces.
func New(seed uint64, stores map[string]storage.Store) *World {
	w := &World{
		stores: stores, seed: seed, now: time.Unix(1_700_000_000, 0).UTC(), skew: map[string]time.Duration{},
		services: map[string]*delivery.Service{}, received: map[string]map[[32]byte]bool{},
		published: map[string]map[string]proof.Key{},
	}
	for _, name := range w.Servers() {
		w.Restart(name)
	}
	return w
}

// Servers lists the names of the servers.
func (w *World) Servers() []string { return slices.Sorted(maps.Keys(w.stores)) }

// Restart takes from a server what it holds in memory.
func (w *World) Restart(name string) {
	limits := delivery.DefaultLimits()
	limits.Wait = 0 // outcomes are asked for
	unbounded := policy.Default()
	unbounded.Quotas = policy.Quotas{}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.starts++
	seed := sha256.Sum256(fmt.Appendf(nil, "%d %d", w.seed, w.starts))
	w.services[name] = delivery.New(delivery.Deps{
		Server: name, IsLocal: func(s string) bool { return s == name },
		Engines: Engines(), Store: w.stores[name], Keys: keys{w, name}, Rooms: rooms{}, Sender: sender{w},
		Now:  func() time.Time { return w.Now(name) },
		Rand: &locked{random: rand.NewChaCha8(seed)}, Log: slog.New(slog.DiscardHandler),
		DefaultPolicy: unbounded, Limits: limits,
	})
}

// locked is randomness for several goroutines.
type locked struct {
	mu     sync.Mutex
	random *rand.ChaCha8
}

func (l *locked) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.random.Read(p)
}

// Service is a server's Delivery Service since it was started last.
func (w *World) Service(name string) *delivery.Service {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.services[name]
}

// Store is what a server has stored.
func (w *World) Store(name string) storage.Store { return w.stores[name] }

// Now is the time on a server's clock.
func (w *World) Now(name string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now.Add(w.skew[name])
}

// Pass lets time pass everywhere.
func (w *World) Pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// Jump sets how far a server's clock is ahead of the others.
func (w *World) Jump(name string, ahead time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.skew[name] = ahead
}

// Received says whether a device of a user was sent a message.
func (w *World) Received(user string, message []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.received[user][sha256.Sum256(message)]
}

// Work does once what is due at a server, and says whether there was any. What fails is put off for a second.
func (w *World) Work(ctx context.Context, name string) (worked bool, err error) {
	store, now := w.stores[name], w.Now(name)
	if err := store.Hasten(ctx, now); err != nil {
		return false, err
	}
	due, _, err := store.Due(ctx, now, 100)
	if err != nil {
		return false, err
	}
	for _, row := range due {
		if w.Service(name).Do(ctx, row) != nil {
			if err := store.Retry(ctx, row.Key(), row.Attempts+1, now.Add(time.Second)); err != nil {
				return false, err
			}
		}
	}
	return len(due) > 0, nil
}

// Caller is a user as their own homeserver vouches for them.
func Caller(user string) api.Caller {
	_, server, _ := strings.Cut(user, ":")
	return api.Caller{UserID: user, Server: server}
}

// key is a server's signing key.
func key(server string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(server))
	return ed25519.NewKeyFromSeed(seed[:])
}

const keyID = "ed25519:1"

// keys signs for one server, which has one key for good.
type keys struct {
	w      *World
	server string
}

func (k keys) Sign(server string, m mimiport.Signed) (string, error) {
	if server != k.server {
		return "", fmt.Errorf("deliverytest: %s does not sign for %s", k.server, server)
	}
	return keyID, mimiport.Sign(m, key(server))
}

// Known implements proof.Keys: everybody has met everybody.
func (k keys) Known(_ context.Context, server string) (map[string]proof.Key, error) {
	if k.w.stores[server] == nil {
		return nil, nil
	}
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	if k.w.published[server] == nil {
		published, err := proof.KeyObject(server, keyObject(server))
		if err != nil {
			return nil, err
		}
		k.w.published[server] = published
	}
	return k.w.published[server], nil
}

// Live implements proof.Keys.
func (k keys) Live(ctx context.Context, server string, _ []string) (map[string]proof.Key, error) {
	return k.Known(ctx, server)
}

func (k keys) VerifyOwn(server, id string, m mimiport.Signed) error {
	_, err := proof.Verify(context.Background(), k, server, id, m, time.Time{}, proof.Known)
	return err
}

func (k keys) KeyObject(_ context.Context, server, _ string) ([]byte, error) {
	return keyObject(server), nil
}

func keyObject(server string) []byte {
	return prooftest.KeyObject(server, prooftest.Pair{ID: keyID, Key: key(server), Until: time.Unix(1<<33, 0)})
}

// rooms is Room, in which everybody is and may do everything.
type rooms struct{}

func (rooms) Standing(_ context.Context, roomID, _ string) (delivery.Standing, error) {
	here := roomID == Room
	return delivery.Standing{Exists: here, Joined: here, Power: 100, PointerLevel: 100}, nil
}

func (rooms) NotJoined(_ context.Context, roomID string, users []string) ([]string, error) {
	if roomID == Room {
		return nil, nil
	}
	return users, nil
}

func (rooms) ServerJoined(context.Context, string, string) (bool, error)            { return true, nil }
func (rooms) Denied(context.Context, string, []string) ([]string, error)            { return nil, nil }
func (rooms) State(context.Context, string, string) (json.RawMessage, error)        { return nil, nil }
func (rooms) StateInForce(context.Context, string, string) (json.RawMessage, error) { return nil, nil }
func (rooms) SendState(context.Context, string, string, string, any) error          { return nil }
func (rooms) LocalAccount(context.Context, string) (bool, error)                    { return true, nil }

// sender calls the other services directly.
type sender struct{ w *World }

// exchange is one request, which may get lost on either way.
func (s sender) exchange(from, to string, request func(*delivery.Service) error) error {
	lost := &mimiport.Error{Op: "send", Kind: mimiport.KindPeer, Err: fmt.Errorf("%s cannot be reached", to)}
	lose := s.w.Lose
	if lose != nil && lose(from, to, false) {
		return lost
	}
	err := request(s.w.Service(to))
	if lose != nil && lose(from, to, true) {
		return lost
	}
	return err
}

func (s sender) ToDevice(
	_ context.Context, from, to, _ string, devices map[string][]string, content json.RawMessage,
) error {
	return s.exchange(from, to, func(*delivery.Service) error {
		var m api.FanOut
		if err := json.Unmarshal(content, &m); err != nil {
			return err
		}
		s.w.mu.Lock()
		defer s.w.mu.Unlock()
		for user := range devices {
			if s.w.received[user] == nil {
				s.w.received[user] = map[[32]byte]bool{}
			}
			s.w.received[user][sha256.Sum256(m.Message)] = true
		}
		return nil
	})
}

func (s sender) PutContent(
	ctx context.Context, from, to string, c *api.ContentUpload,
) (vote *api.SignedRequest, err error) {
	err = s.exchange(from, to, func(d *delivery.Service) (err error) {
		vote, err = d.PutContent(ctx, from, c)
		return err
	})
	return vote, err
}

func (s sender) PutConfirmation(
	ctx context.Context, from, to string, id mimiport.MigrationID, m *api.SignedRequest,
) error {
	return s.exchange(from, to, func(d *delivery.Service) error {
		_, err := d.ConfirmMigration(ctx, api.Caller{Server: from}, id, m)
		return err
	})
}

func (s sender) PutAbort(ctx context.Context, from, to string, id mimiport.MigrationID, m *api.SignedRequest) error {
	return s.exchange(from, to, func(d *delivery.Service) error { return d.AbortFromSource(ctx, from, id, m) })
}

func (s sender) PutLineage(ctx context.Context, from, to string, groupID []byte, r *api.LineageRequest) error {
	return s.exchange(from, to, func(d *delivery.Service) error {
		_, err := d.ShowLineage(ctx, api.Caller{Server: from}, groupID, r)
		return err
	})
}

func (s sender) AskStatus(
	ctx context.Context, from, to string, id mimiport.MigrationID,
) (st *api.MigrationStatus, err error) {
	err = s.exchange(from, to, func(d *delivery.Service) (err error) {
		st, err = d.Migration(ctx, api.Caller{Server: from}, id)
		return err
	})
	return st, err
}
