package delivery

import (
	"context"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// quotaFacts is what the quotas of a migration count, besides what the store knows. nil asks for no quota: a migration that
// has begun is not refused for its number.
type quotaFacts struct {
	starting  bool // this migration is not counted yet
	members   int
	foreignID bool
}

// decide gathers the facts and asks the policy, on either side and at every step. admin is only known of a caller.
func (s *Service) decide(ctx context.Context, side migration.Role, m *migration.Migration, c api.Caller, q *quotaFacts) error {
	p, err := s.Policy(ctx)
	if err != nil {
		return err
	}
	f, err := s.facts(ctx, side, m, c)
	if err != nil {
		return err
	}
	if q != nil {
		f.Members, f.ForeignID = q.members, q.foreignID
		if err := s.count(ctx, f, m, q); err != nil {
			return err
		}
	}
	return policy.Decide(&p, f)
}

func (s *Service) facts(ctx context.Context, side migration.Role, m *migration.Migration, c api.Caller) (*policy.Facts, error) {
	user := c.UserID
	if user == "" {
		user = m.User
	}
	f := &policy.Facts{Side: side, UserServer: serverOf(user), UserAdmin: c.Admin || c.UserID == "" && m.ByAdmin, Peer: m.Target}
	if side == migration.Target {
		f.Peer = m.Source
	}
	st, err := s.Rooms.Standing(ctx, m.RoomID, user)
	if err != nil {
		return nil, err
	}
	f.RoomKnown, f.UserJoined, f.UserMayPoint = st.Exists, st.Joined, st.Power >= st.PointerLevel
	if f.PeerAllowed, err = s.Rooms.ServerAllowed(ctx, m.RoomID, f.Peer); err != nil {
		return nil, err
	}
	if f.TargetInRoom, err = s.Rooms.ServerJoined(ctx, m.RoomID, m.Target); err != nil {
		return nil, err
	}
	if f.UserServerInRoom, err = s.Rooms.ServerJoined(ctx, m.RoomID, f.UserServer); err != nil {
		return nil, err
	}
	if s.IsLocal(f.UserServer) {
		f.UserLocal, err = s.Rooms.LocalAccount(ctx, user)
	}
	return f, err
}

// countLimit is where counting for a quota ends: no quota is meant to be larger.
const countLimit = 10_000

func (s *Service) count(ctx context.Context, f *policy.Facts, m *migration.Migration, q *quotaFacts) (err error) {
	now := s.Now()
	hourAgo := now.Add(-time.Hour)
	own := 0
	if q.starting {
		own = 1
	}
	tally := func(n *int, own int, filter storage.MigrationFilter) {
		if err != nil {
			return
		}
		var found []migration.Migration
		found, err = s.Store.Migrations(ctx, filter, mimiport.MigrationID{}, countLimit)
		if !filter.Since.IsZero() { // what a clock that was ahead has dated must not count until it is past
			found = slices.DeleteFunc(found, func(m migration.Migration) bool { return m.CreatedAt.After(now) })
		}
		*n = len(found) + own
	}
	tally(&f.Moves, own, storage.MigrationFilter{Role: f.Side, User: m.User, Since: hourAgo})
	if f.Side == migration.Source {
		tally(&f.Aborts, 1, storage.MigrationFilter{Role: f.Side, GroupID: m.GroupID, Since: hourAgo, States: []migration.State{migration.Aborted}})
		return err
	}
	tally(&f.Offers, own, storage.MigrationFilter{Role: f.Side, User: m.User, States: []migration.State{migration.Offered}})
	tally(&f.Staged, 1, storage.MigrationFilter{Role: f.Side, States: []migration.State{migration.Staged}})
	if err == nil {
		f.Groups, _, err = s.Store.CountGroups(ctx, m.User)
		f.Groups++
	}
	return err
}
