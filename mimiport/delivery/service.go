// Package delivery is the Delivery Service: it loads a group or a migration, lets the engine or the machine take one step,
// commits the outcome in one transaction, and wakes the outbox. It declares the interfaces it needs and knows neither HTTP
// nor Dendrite.
package delivery

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Deps is what a Service is made of. All fields are needed.
type Deps struct {
	Server  string                   // this homeserver's name
	IsLocal func(server string) bool // whether a name is one of this server's
	Engines map[string]mls.Engine    // by protocol
	Store   storage.Store
	Keys    Keys
	Rooms   Rooms
	Sender  Sender
	Now     func() time.Time
	Rand    io.Reader
	Log     *slog.Logger

	DefaultPolicy policy.Policy
	Limits        Limits
}

// Limits are the sizes and times that an operator may set.
type Limits struct {
	GroupStateBytes int64         // of the group_state of a migration, in either direction
	MessageBytes    int64         // of one submitted message with its GroupInfo and Welcome
	OfferLife       time.Duration // from MigrationResponse to content
	DecideBy        time.Duration // from the freeze to S's abort, for a small group
	Retention       time.Duration // of the state of what has moved away or was dropped
	LogRetention    time.Duration // of messages that no snapshot needs; 0 is for good
	Wait            time.Duration // how long InitMigration waits for the outcome before it answers
	CacheBytes      int           // of loaded groups
}

// DefaultLimits are the profile's (sections 4 and 6).
func DefaultLimits() Limits {
	return Limits{
		GroupStateBytes: 64 << 20,
		MessageBytes:    1 << 20,
		OfferLife:       10 * time.Minute,
		DecideBy:        time.Minute,
		Retention:       7 * 24 * time.Hour,
		Wait:            20 * time.Second,
		CacheBytes:      256 << 20,
	}
}

// Service is the Delivery Service of one homeserver.
type Service struct {
	Deps
	locks  locks
	cache  cache
	waits  waits
	inWork inWork
	wake   func()
}

var _ api.API = (*Service)(nil)

// New makes a Service. It starts nothing: rows become due in the store, and whoever runs the outbox gives them to Do.
func New(d Deps) *Service {
	return &Service{Deps: d, cache: cache{max: d.Limits.CacheBytes}, wake: func() {}}
}

// SetWake sets what is called after each change that may have made rows due. It must be called before the Service is used.
func (s *Service) SetWake(wake func()) { s.wake = wake }

// apply commits a change and wakes whoever waits for it. The change must reach the store whatever becomes of the request.
func (s *Service) apply(ctx context.Context, c *storage.Change) error {
	if err := s.Store.Apply(context.WithoutCancel(ctx), c); err != nil {
		return err
	}
	if len(c.Rows) > 0 {
		s.wake()
	}
	if c.Migration != nil {
		s.waits.notify(c.Migration.ID)
	}
	return nil
}

// retryConflicts runs f until it ends otherwise than by a lost compare-and-set. Each run loads anew.
func retryConflicts(f func() error) error {
	const attempts = 8
	var err error
	for range attempts {
		if err = f(); !errors.Is(err, storage.ErrConflict) {
			return err
		}
	}
	return mimiport.Errorf("commit", mimiport.KindConflict, "%w", err)
}

// group loads the row of the highest term, or a KindUnknownGroup error.
func (s *Service) group(ctx context.Context, id []byte) (*storage.Group, error) {
	g, err := s.Store.Group(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, &mimiport.Error{Op: "load group", Kind: mimiport.KindUnknownGroup, Group: id, Err: errors.New("no such group here")}
	}
	return g, err
}

// record loads a migration, or a KindUnknownMigration error.
func (s *Service) record(ctx context.Context, id mimiport.MigrationID) (*migration.Migration, error) {
	m, err := s.Store.Migration(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mimiport.Errorf("load migration", mimiport.KindUnknownMigration, "no migration %s here", id)
	}
	return m, err
}

// engine finds the engine of a protocol, or a KindUnsupported error.
func (s *Service) engine(protocol string) (mls.Engine, error) {
	e, ok := s.Engines[protocol]
	if !ok {
		return nil, mimiport.Errorf("find engine", mimiport.KindUnsupported, "protocol %q is not spoken here", protocol)
	}
	return e, nil
}

// member fails unless the caller is joined to the group's room, by its state now.
func (s *Service) member(ctx context.Context, c api.Caller, roomID string) error {
	if c.UserID == "" {
		return mimiport.Errorf("authorise", mimiport.KindForbidden, "this needs a user")
	}
	st, err := s.Rooms.Standing(ctx, roomID, c.UserID)
	if err != nil {
		return err
	}
	if !st.Joined {
		return mimiport.Errorf("authorise", mimiport.KindForbidden, "%s is not joined to the room", c.UserID)
	}
	return nil
}

// joined fails unless all users are joined to the room.
func (s *Service) joined(ctx context.Context, roomID string, users []string) error {
	if len(users) == 0 {
		return nil
	}
	missing, err := s.Rooms.NotJoined(ctx, roomID, users)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return mimiport.Errorf("authorise", mimiport.KindForbidden, "%s is not joined to the room", missing[0])
	}
	return nil
}

// identity reads the Matrix user and device in a member's credential (profile, section 7).
func identity(m mls.Member) (*mimiport.LeafIdentity, error) {
	const op = "read credential"
	if m.Identity == nil {
		return nil, mimiport.Errorf(op, mimiport.KindInvalid, "leaf %d has no basic credential", m.Leaf)
	}
	id, err := mimiport.UnmarshalLeafIdentity(m.Identity)
	if err != nil {
		return nil, err
	}
	if _, err := spec.NewUserID(id.UserID, true); err != nil || id.DeviceID == "" {
		return nil, mimiport.Errorf(op, mimiport.KindInvalid, "leaf %d names no Matrix device", m.Leaf)
	}
	return id, nil
}

// serverOf is the server part of a user id that identity or the edge has checked.
func serverOf(userID string) string {
	_, domain, _ := strings.Cut(userID, ":")
	return domain
}

func hash(message []byte) [32]byte { return sha256.Sum256(message) }

// locks serialises what this process does to one group, so that concurrent submits queue up instead of losing races, and a group
// is loaded once for all who wait for it. The store's compare-and-set is what makes it correct.
type locks struct {
	mu     sync.Mutex
	groups map[string]*groupLock
}

type groupLock struct {
	sync.Mutex
	wanted int // by how many, the holder included
}

func (l *locks) lock(groupID []byte) (unlock func()) {
	id := string(groupID)
	l.mu.Lock()
	if l.groups == nil {
		l.groups = make(map[string]*groupLock)
	}
	g := l.groups[id]
	if g == nil {
		g = new(groupLock)
		l.groups[id] = g
	}
	g.wanted++
	l.mu.Unlock()
	g.Lock()
	return func() {
		g.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if g.wanted--; g.wanted == 0 {
			delete(l.groups, id)
		}
	}
}

// waits lets requests wait for a migration to change.
type waits struct {
	mu sync.Mutex
	m  map[mimiport.MigrationID]chan struct{}
}

// changed is closed at the next change of the record.
func (w *waits) changed(id mimiport.MigrationID) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == nil {
		w.m = make(map[mimiport.MigrationID]chan struct{})
	}
	if w.m[id] == nil {
		w.m[id] = make(chan struct{})
	}
	return w.m[id]
}

func (w *waits) notify(id mimiport.MigrationID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ch := w.m[id]; ch != nil {
		close(ch)
		delete(w.m, id)
	}
}

// inWork keeps a target from verifying one content twice at the same time.
type inWork struct {
	mu sync.Mutex
	m  map[mimiport.MigrationID]bool
}

// begin reports false when the content is being worked on; otherwise end must be called.
func (w *inWork) begin(id mimiport.MigrationID) (end func(), ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m[id] {
		return nil, false
	}
	if w.m == nil {
		w.m = make(map[mimiport.MigrationID]bool)
	}
	w.m[id] = true
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.m, id)
	}, true
}
