// Package deliverytest runs several Delivery Services in one process, for tests of their common decisions. All of them
// see one room. The network between them loses the messages that a test chooses.
package deliverytest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Engines returns the MLS engines of every server.
func Engines() map[string]mls.Engine {
	engine := mls.RFC9420(mls.DefaultLimits())
	return map[string]mls.Engine{engine.Protocol(): engine}
}

// World is a set of Delivery Services. Its methods are safe for concurrent use. A test sets its fields while no method
// runs.
type World struct {
	Stores   map[string]storage.Store     // by server name
	Services map[string]*delivery.Service // by server name
	Room     *Room                        // as all servers see it
	Devices  *Devices                     // as their homeservers tell it
	Got      []Delivery                   // the events that devices have received, in order
	Asked    []Asked                      // the requests to move a group that devices have received, in order

	Lose     func(Message) bool               // whether a message between servers gets lost; nil for never
	Draft    string                           // a server that speaks only the draft: it activates what it imports
	Silent   map[string]bool                  // servers that cannot be asked for their keys
	Verified func()                           // called when a server is asked for its keys; may be nil
	Logf     func(format string, args ...any) // logs the rows that fail; may be nil

	seed uint64

	mu      sync.Mutex
	now     time.Time
	skew    map[string]time.Duration
	retired map[string][]time.Time             // by server: when each key was rotated away, the first key first
	known   map[[2]string]map[string]proof.Key // by server and server: the keys that the second has given the first
	members map[membership]*Member             // of the groups that NewGroup has made
}

// New starts a Delivery Service for each store, by server name. The same seed gives the same nonces. Nobody is in the
// room.
func New(seed uint64, stores map[string]storage.Store) *World {
	w := &World{
		Stores: map[string]storage.Store{}, Services: map[string]*delivery.Service{},
		Room:    &Room{Joined: map[string]bool{}, Power: map[string]int64{}, Events: map[string]json.RawMessage{}},
		Devices: &Devices{said: map[device]published{}, silent: map[string]bool{}},
		seed:    seed, now: time.Unix(1_700_000_000, 0).UTC(), skew: map[string]time.Duration{},
		retired: map[string][]time.Time{}, known: map[[2]string]map[string]proof.Key{},
		members: map[membership]*Member{},
	}
	for name, store := range stores {
		w.Add(name, store)
	}
	return w
}

// Add starts one more Delivery Service.
func (w *World) Add(name string, store storage.Store) {
	limits := delivery.DefaultLimits()
	limits.Wait = 0 // tests ask for outcomes
	unbounded := policy.Default()
	unbounded.Quotas = policy.Quotas{}
	seed := sha256.Sum256(fmt.Appendf(nil, "%d %s", w.seed, name))
	w.start(name, delivery.Deps{
		Server: name, IsLocal: func(s string) bool { return s == name },
		Engines: Engines(), Store: store, Keys: keys{w, name}, Rooms: rooms{w.Room, name}, Devices: w.Devices,
		Sender: w.Network(),
		Now:    func() time.Time { return w.clock(name) },
		Rand:   &locked{random: rand.NewChaCha8(seed)}, Log: slog.New(slog.DiscardHandler),
		DefaultPolicy: unbounded, Limits: limits,
	})
}

func (w *World) start(name string, deps delivery.Deps) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Stores[name], w.Services[name] = deps.Store, delivery.New(deps)
}

// Restart makes a server lose its memory.
func (w *World) Restart(name string) { w.start(name, w.Service(name).Deps) }

// RestartWith restarts a server with changed Deps.
func (w *World) RestartWith(name string, change func(*delivery.Deps)) {
	deps := w.Service(name).Deps
	change(&deps)
	w.start(name, deps)
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

// Servers lists the names of the servers.
func (w *World) Servers() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.Services))
}

// Service is a server's Delivery Service since it was started last.
func (w *World) Service(name string) *delivery.Service {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.Services[name]
}

// Now is the time on a server's clock.
func (w *World) Now(name string) time.Time { return w.Service(name).Now() }

func (w *World) clock(name string) time.Time {
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

// Work does each due row of a server once, and reports whether there was any. It delays a row that fails by a second.
func (w *World) Work(ctx context.Context, name string) (worked bool, err error) {
	service, now := w.Service(name), w.Now(name)
	store := service.Store
	if err := store.Hasten(ctx, now); err != nil {
		return false, err
	}
	if err := Settle(ctx, store); err != nil {
		return false, err
	}
	due, _, err := store.Due(ctx, now, 100)
	if err != nil {
		return false, err
	}
	for _, row := range due {
		err := w.Service(name).Do(ctx, row)
		if err == nil {
			continue
		}
		if w.Logf != nil {
			w.Logf("%s: %s to %s: %v", name, row.Kind, row.Destination, err)
		}
		if err := store.Retry(ctx, row.Key(), row.Attempts+1, now.Add(time.Second)); err != nil {
			return false, err
		}
	}
	return len(due) > 0, nil
}

// Settle replaces the FanOuts of a store by a row for each of their servers.
func Settle(ctx context.Context, store storage.Store) error {
	waiting, err := store.Waiting(ctx)
	if err != nil {
		return err
	}
	for _, last := range waiting {
		fanOuts, err := store.FanOuts(ctx, storage.Position{GroupKey: last.GroupKey}, math.MaxInt32)
		if err != nil {
			return err
		}
		last.Seq = fanOuts[len(fanOuts)-1].Seq // members may have sent more since the call of Waiting
		change := &storage.Change{Settled: []storage.Position{last}}
		for i := range fanOuts {
			for _, server := range fanOuts[i].Servers {
				change.Rows = append(change.Rows, fanOuts[i].Row(server))
			}
		}
		if err := store.Apply(ctx, change); err != nil {
			return err
		}
	}
	return nil
}

// WorkAll does each due row of each server once, and reports whether there was any.
func (w *World) WorkAll(ctx context.Context) (worked bool, err error) {
	for _, name := range w.Servers() {
		here, err := w.Work(ctx, name)
		if err != nil {
			return false, err
		}
		worked = worked || here
	}
	return worked, nil
}

// Run does the due rows of all servers until no row is due. A row that fails is due again when time has passed.
func (w *World) Run(ctx context.Context) error {
	for range 1000 {
		if worked, err := w.WorkAll(ctx); err != nil || !worked {
			return err
		}
	}
	return errors.New("deliverytest: the outboxes do not come to rest")
}

// RunFor lets time pass second by second, and does what is due.
func (w *World) RunFor(ctx context.Context, d time.Duration) error {
	for begin := w.clock(""); ; w.Pass(time.Second) {
		if err := w.Run(ctx); err != nil {
			return err
		}
		if w.clock("").Sub(begin) >= d {
			return nil
		}
	}
}

// Caller is a user as their own homeserver vouches for them.
func Caller(user string) api.Caller { return api.Caller{UserID: user, Server: serverOf(user)} }

// serverOf is a user's homeserver.
func serverOf(user string) string {
	_, server, _ := strings.Cut(user, ":")
	return server
}
