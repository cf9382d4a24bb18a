package delivery

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Intake says what this server, as a target under its name to, would take of a room's groups from origin. servers are
// the homeservers of users who could move them. To a server outside the room this server says nothing about the room.
func (s *Service) Intake(ctx context.Context, origin, to, roomID string, servers []string) (*api.Intake, error) {
	p, err := s.Policy(ctx)
	if err != nil {
		return nil, err
	}
	in := &api.Intake{Servers: []string{}, Limits: api.TargetLimits{
		GroupStateBytes: s.Limits.GroupStateBytes, Protocols: slices.Sorted(maps.Keys(s.Engines)), Members: p.Quotas.Members,
	}}
	o, err := s.order(ctx)
	if err != nil {
		return nil, err
	}
	room, err := s.Rooms.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	known := room.ServerJoined(to) && room.ServerJoined(origin)
	switch {
	case o.on():
		in.Refusal = api.IntakeNobody
	case !p.Exchanges(origin):
		in.Refusal = api.IntakePeer
	case p.RequireRoom && !known:
		in.Refusal = api.IntakeRoom
	case known && len(room.Denied([]string{origin, to})) > 0:
		in.Refusal = api.IntakeDenied
	case p.Target == policy.TargetNobody && !p.AcceptsDrainOf(origin):
		in.Refusal = api.IntakeNobody
	}
	if in.Refusal != "" {
		return in, nil
	}
	if full, err := s.full(ctx, &p.Quotas, roomID); full || err != nil {
		in.Refusal = api.IntakeFull
		return in, err
	}
	for _, server := range servers {
		f := &policy.Facts{
			Side: migration.Target, Peer: origin, UserServer: server, UserLocal: s.IsLocal(server), UserJoined: true,
			RoomKnown: known, TargetInRoom: known,
		}
		if known {
			f.UserServerInRoom, f.Denied = room.ServerJoined(server), room.Denied([]string{server})
		}
		if policy.Decide(&p, f) == nil {
			in.Servers = append(in.Servers, server)
		}
	}
	if len(in.Servers) == 0 {
		in.Refusal = api.IntakeUsers
	}
	return in, nil
}

// full reports whether a quota leaves no place for another group of a room.
func (s *Service) full(ctx context.Context, q *policy.Quotas, roomID string) (bool, error) {
	limits := bounded(q, []storage.Counter{
		{Quota: storage.QuotaGroups}, {Quota: storage.QuotaGroupsPerRoom, RoomID: roomID},
	})
	err := s.Store.Apply(ctx, &storage.Change{Limits: spare(limits)})
	if _, ok := errors.AsType[*storage.LimitError](err); ok {
		return true, nil
	}
	return false, err
}

// The times for which a source believes what a target has said, and does not try again a server that has not answered.
const (
	intakeLife = 10 * time.Minute
	awayTime   = time.Minute
)

// maxIntakes is the largest number of answers of targets that a source keeps.
const maxIntakes = 10_000

// surroundings is what a source that empties itself knows of other servers. It is lost at a restart.
type surroundings struct {
	mu      sync.Mutex
	intakes map[intakeKey]heardIntake
	absent  map[string]api.AwayServer
	filled  time.Time // when the drain was filled last
}

type intakeKey struct{ from, target, room string }

type heardIntake struct {
	*api.Intake
	until time.Time
}

func newSurroundings() *surroundings {
	return &surroundings{intakes: make(map[intakeKey]heardIntake), absent: make(map[string]api.AwayServer)}
}

// forget makes the source ask again.
func (w *surroundings) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.intakes)
	clear(w.absent)
	w.filled = time.Time{}
}

// away lists the servers that have not answered lately.
func (w *surroundings) away(now time.Time) []api.AwayServer {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forgive(now)
	return append([]api.AwayServer{}, slices.SortedFunc(maps.Values(w.absent), func(a, b api.AwayServer) int {
		return strings.Compare(a.Server, b.Server)
	})...)
}

// requirePresent fails if a server has not answered lately.
func (w *surroundings) requirePresent(server string, now time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a, ok := w.absent[server]; ok && now.UnixMilli() < a.Until {
		return errors.New(a.Error)
	}
	return nil
}

// forgive forgets the servers that may be asked again. Its caller holds mu.
func (w *surroundings) forgive(now time.Time) {
	maps.DeleteFunc(w.absent, func(_ string, a api.AwayServer) bool { return now.UnixMilli() >= a.Until })
}

// miss notes that a server has not answered.
func (w *surroundings) miss(server string, now time.Time, why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forgive(now)
	w.absent[server] = api.AwayServer{
		Server: server, Until: now.Add(awayTime).UnixMilli(), Error: mimiport.Clip(why.Error()),
	}
}

// intake returns what a target takes of a room's groups. It asks the target at most once in intakeLife, and not while
// the target is away.
func (w *surroundings) intake(
	ctx context.Context, s *core, from, target, roomID string, servers []string,
) (*api.Intake, error) {
	key, now := intakeKey{from, target, roomID}, s.Now()
	if in := w.kept(key, now); in != nil {
		return in, nil
	}
	if err := w.requirePresent(target, now); err != nil {
		return nil, err
	}
	in, err := s.Sender.AskIntake(ctx, from, target, roomID, servers)
	if mimiport.KindOf(err) == mimiport.KindUnrecognized { // it speaks the draft alone, or an older version of the profile
		in, err = &api.Intake{Servers: []string{target}}, nil
	}
	if err != nil {
		if ctx.Err() == nil {
			w.miss(target, now, err)
		}
		return nil, err
	}
	in = s.trimmed(in, servers)
	w.keep(key, heardIntake{in, now.Add(intakeLife)})
	return in, nil
}

// trimmed returns the part of a target's answer that this server has a use for. The answer itself may have megabytes.
func (s *core) trimmed(in *api.Intake, servers []string) *api.Intake {
	kept := &api.Intake{
		Refusal: api.IntakeRefusal(mimiport.Clip(string(in.Refusal))), Limits: api.TargetLimits{Members: in.Limits.Members},
	}
	for _, server := range servers {
		if slices.Contains(in.Servers, server) {
			kept.Servers = append(kept.Servers, server)
		}
	}
	if in.Limits.Protocols == nil {
		return kept
	}
	kept.Limits.Protocols = []string{}
	for protocol := range s.Engines {
		if slices.Contains(in.Limits.Protocols, protocol) {
			kept.Limits.Protocols = append(kept.Limits.Protocols, protocol)
		}
	}
	return kept
}

func (w *surroundings) kept(key intakeKey, now time.Time) *api.Intake {
	w.mu.Lock()
	defer w.mu.Unlock()
	if in, ok := w.intakes[key]; ok && now.Before(in.until) {
		return in.Intake
	}
	return nil
}

func (w *surroundings) keep(key intakeKey, in heardIntake) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.intakes) >= maxIntakes {
		clear(w.intakes)
	}
	w.intakes[key] = in
}

// fill reports whether it is time to fill the drain again.
func (w *surroundings) fill(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Sub(w.filled).Abs() < fillEvery {
		return false
	}
	w.filled = now
	return true
}
