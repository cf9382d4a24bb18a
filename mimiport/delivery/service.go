// Package delivery is the Delivery Service. For each request it loads a group or a migration, lets the MLS engine or
// the state machine of package migration take one step, commits the outcome in one transaction, and wakes the outbox.
// It declares the interfaces that it needs. It knows neither HTTP nor Dendrite.
package delivery

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/slots"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Deps holds the parts of a Service. All fields are required.
type Deps struct {
	Server  string                   // this homeserver's name
	IsLocal func(server string) bool // reports whether a server name is local
	Engines mls.Engines              // by protocol
	Store   storage.Store
	Keys    Keys
	Rooms   Rooms
	Devices Devices
	Sender  Sender
	Now     func() time.Time
	Rand    io.Reader
	Log     *slog.Logger

	DefaultPolicy    policy.Policy
	ConfiguredPolicy []string // the paths of the fields of DefaultPolicy that the configuration sets
	Limits           Limits
	Metrics          *Metrics // nil for none
	About            api.About
}

// Limits are the sizes and times that an operator may set.
type Limits struct {
	GroupStateBytes int64         // most bytes of a migration's group_state, sent or received
	MessageBytes    int64         // most bytes of one submitted message with its GroupInfo and Welcome
	OfferLife       time.Duration // from MigrationResponse to content
	DecideBy        time.Duration // from the freeze to S's abort, for a small group
	Retention       time.Duration // how long to keep the state of a group that moved away or was dropped
	LogRetention    time.Duration // how long to keep messages that no snapshot needs; 0 means for good
	Wait            time.Duration // how long InitMigration waits for the outcome before it answers
	CacheBytes      int           // most bytes of loaded groups
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
	*core
	intake
	courier
	removals
	closing
	reporting
	operator
	overviews
	drains
	lineages
	logs
	outgoing
	resorts
	announcements
	inWork *slots.Slots[mimiport.MigrationID] // a target verifies one content of a migration at a time
}

var _ api.API = (*Service)(nil)

// New makes a Service. It starts no goroutine: rows become due in the store, and the outbox passes them to Do.
func New(d Deps) *Service {
	c := &core{Deps: d, groups: registry.New(d.Engines, d.Store, d.Limits.CacheBytes), wake: func() {}}
	c.traces = newTraces()
	c.peers = func() []api.FailingPeer { return nil }
	c.authority, c.senders = authority{&c.Deps}, senders{&c.Deps}
	return &Service{
		core: c, intake: intake{c}, courier: courier{c}, removals: removals{c}, closing: closing{c},
		reporting: reporting{c}, operator: operator{c},
		overviews: overviews{c}, drains: drains{c, newSurroundings()},
		lineages: lineages{c}, logs: logs{c}, outgoing: outgoing{c}, resorts: resorts{c},
		announcements: announcements{c},
		inWork:        slots.New[mimiport.MigrationID](1),
	}
}

// SetWake sets the function that the Service calls after each change that may have made rows due. Call SetWake before
// any other method.
func (s *Service) SetWake(wake func()) { s.wake = wake }

// SetPeers sets the function that lists the servers to which this process cannot deliver. Call SetPeers before any
// other method.
func (s *Service) SetPeers(failing func() []api.FailingPeer) { s.peers = failing }

// core holds the parts that all capabilities of the Service share.
type core struct {
	Deps
	authority
	senders
	groups *registry.Registry
	waits  waits
	wake   func()
	peers  func() []api.FailingPeer
	traces *traces
}

// apply commits a change and wakes the requests that wait for it. It commits even if the request is canceled. If the
// change would exceed a quota, apply returns an error of policy.Exceeded.
func (s *core) apply(ctx context.Context, c *storage.Change) error {
	now := s.Now()
	for i := range c.Rows {
		c.Rows[i].Created = now
	}
	if c.Migration != nil {
		s.traces.note(ctx, c.Migration.ID)
		c.Migration.UpdatedAt = now
	}
	err := s.Store.Apply(context.WithoutCancel(ctx), c)
	if broken, ok := errors.AsType[*storage.LimitError](err); ok {
		return policy.Exceeded(broken.Quota)
	}
	if err != nil {
		return err
	}
	s.Metrics.accepted(c.Entries)
	if len(c.Rows)+len(c.FanOuts) > 0 {
		s.wake()
	}
	if c.Migration != nil {
		s.waits.notify(c.Migration.ID)
	}
	return nil
}

// done deletes a row. Nil is none.
func (s *core) done(ctx context.Context, row *storage.Row) error {
	if row == nil {
		return nil
	}
	return s.apply(ctx, &storage.Change{Done: []storage.RowKey{row.Key()}})
}

// record loads a migration, or returns a KindUnknownMigration error.
func (s *core) record(ctx context.Context, id mimiport.MigrationID) (*migration.Migration, error) {
	m, err := s.Store.Migration(ctx, id)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mimiport.Errorf("load migration", mimiport.KindUnknownMigration, "no migration %s here", id)
	}
	return m, err
}

// sign signs a message as a local server and encodes it.
func (s *core) sign(server string, message interface {
	mimiport.Signed
	Marshal() ([]byte, error)
}) (migration.Signed, error) {
	keyID, err := s.Keys.Sign(server, message)
	if err != nil {
		return migration.Signed{}, err
	}
	data, err := message.Marshal()
	return migration.Signed{Message: data, KeyID: keyID}, err
}
