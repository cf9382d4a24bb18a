package delivery

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// overviews answers operators who look at this server.
type overviews struct{ *core }

// overview finds out for operators how groups stand. One overview makes one page: it asks once for each room and for
// the policy.
type overview struct {
	*core
	policy policy.Policy
	rooms  map[string]*policy.Room
	admins map[string]bool
	others []string // further servers, of which Denied shall tell
}

func (s *core) overview(ctx context.Context) (*overview, error) {
	p, err := s.Policy(ctx)
	return &overview{core: s, policy: p, rooms: make(map[string]*policy.Room), admins: make(map[string]bool)}, err
}

// AdminGroups lists at most limit groups for an operator, by id, after a given id. total counts all that the filter
// selects.
func (s overviews) AdminGroups(
	ctx context.Context, f storage.GroupFilter, after []byte, limit int,
) (groups []api.AdminGroup, total int, err error) {
	rows, err := s.Store.Groups(ctx, f, after, limit)
	if err != nil {
		return nil, 0, err
	}
	if total, err = s.Store.CountGroups(ctx, f); err != nil {
		return nil, 0, err
	}
	o, err := s.overview(ctx)
	if err != nil {
		return nil, 0, err
	}
	groups = make([]api.AdminGroup, len(rows))
	for i := range rows {
		if groups[i], err = o.group(ctx, &rows[i]); err != nil {
			return nil, 0, err
		}
	}
	return groups, total, nil
}

// AdminGroup returns one group for an operator, or a KindUnknownGroup error.
func (s overviews) AdminGroup(ctx context.Context, id []byte) (*api.AdminGroup, error) {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	o, err := s.overview(ctx)
	if err != nil {
		return nil, err
	}
	shown, err := o.group(ctx, g)
	return &shown, err
}

func (o *overview) group(ctx context.Context, g *storage.Group) (api.AdminGroup, error) {
	v := api.AdminGroup{
		GroupID: g.ID, Term: g.Term, State: string(g.State), Server: g.Server, RoomID: g.RoomID, Creator: g.Creator,
		Protocol: g.Protocol, CipherSuite: g.CipherSuite, Epoch: g.Epoch, NextSeq: g.NextSeq,
		CreatedAt: g.CreatedAt.UnixMilli(),
	}
	if g.Migration != (mimiport.MigrationID{}) {
		v.MigrationID = g.Migration.String()
	}
	last, err := o.Store.LastCommit(ctx, g.Key())
	if err != nil {
		return v, err
	}
	v.LastCommit = storage.Millis(last)
	switch {
	case g.State == migration.GroupMoved:
		moved, err := o.moved(ctx, g)
		if err != nil {
			return v, err
		}
		v.MovedTo = &api.MovedTo{Server: moved.Server, Term: moved.Term}
	case hosted(g), g.State == migration.GroupStopped:
		if v.Hosted, err = o.hosted(ctx, g); err != nil && ctx.Err() == nil {
			v.Fault = err.Error() // one group that this server cannot read must not hide the others
			err = nil
		}
	}
	return v, err
}

// hosted describes the present epoch of a group. It holds the group's lock only while it copies the roster.
func (o *overview) hosted(ctx context.Context, g *storage.Group) (*api.Hosted, error) {
	h := &api.Hosted{Servers: []api.ServerMembers{}, PendingRemovals: []api.PendingLeaf{}}
	users := make(map[string]bool)
	err := o.groups.WithLive(ctx, g.Key(), func(_ *storage.Group, l *registry.Live) error {
		h.Members = l.MLS.NumMembers()
		for _, server := range l.Roster.Servers() {
			h.Servers = append(h.Servers, countAt(server, l.Roster[server]))
			for user := range l.Roster[server] {
				users[user] = true
			}
		}
		return o.addLeaving(h, users, g, l)
	})
	if err != nil {
		return nil, err
	}
	h.Moves, err = o.moves(ctx, g, users)
	return h, err
}

func countAt(server string, users map[string]map[string]int) api.ServerMembers {
	m := api.ServerMembers{Server: server, Users: len(users)}
	for _, devices := range users {
		for _, leaves := range devices {
			m.Leaves += leaves
		}
	}
	return m
}

// addLeaving adds the leaves whose removal is proposed. A user all of whose leaves go may make no migration Commit.
func (o *overview) addLeaving(h *api.Hosted, users map[string]bool, g *storage.Group, l *registry.Live) error {
	leaving := leavingLeaves(l.MLS)
	if len(leaving) == 0 {
		return nil
	}
	stays := make(map[string]bool)
	for m := range l.MLS.Members() {
		id, err := registry.Identity(m)
		if err != nil {
			return err
		}
		if !leaving[m.Leaf] {
			stays[id.UserID] = true
			continue
		}
		h.PendingRemovals = append(h.PendingRemovals,
			api.PendingLeaf{Leaf: m.Leaf, UserID: id.UserID, DeviceID: id.DeviceID})
	}
	for user := range users {
		users[user] = stays[user]
	}
	return nil
}

// moves says who may move a group where.
func (o *overview) moves(ctx context.Context, g *storage.Group, users map[string]bool) (*api.Moves, error) {
	if why := obstacle(g.State); why != nil {
		return &api.Moves{Movable: api.MovableNo, Users: []string{}, Targets: []string{}, Why: []api.Reason{*why}}, nil
	}
	m, err := o.movers(ctx, g, users)
	if err != nil {
		return nil, err
	}
	shown := &api.Moves{
		Movable: api.MovableNo, Users: append([]string{}, m.Users[:min(len(m.Users), api.MaxMovers)]...), Total: len(m.Users),
		Targets: append([]string{}, m.Targets...), Anywhere: m.Anywhere, Why: []api.Reason{},
	}
	switch {
	case m.Possible() && m.Own > 0:
		shown.Movable = api.MovableYes
	case m.Possible():
		shown.Movable = api.MovableAsk
	}
	for _, why := range m.Why {
		shown.Why = append(shown.Why, api.Reason{Rule: string(why.Rule), Text: why.Text, Remedy: why.Remedy})
	}
	return shown, nil
}

// obstacle is the state of a group in which nobody can begin to move it, or nil.
func obstacle(state migration.GroupState) *api.Reason {
	switch state {
	case migration.GroupFrozen:
		return &api.Reason{
			Rule: "frozen", Text: "The group is being moved.", Remedy: "Wait for the end of the migration.",
		}
	case migration.GroupStopped:
		return &api.Reason{
			Rule: "stopped", Text: "The group is stopped: this server has forgotten something that it signed.",
			Remedy: "Look at its evidence, and reclaim, recover or yield the group.",
		}
	}
	return nil
}

// movers gathers the facts about a group, and asks the policy. users are those with a leaf; true if a leaf stays.
func (o *overview) movers(ctx context.Context, g *storage.Group, users map[string]bool) (*policy.Moves, error) {
	room, err := o.room(ctx, g)
	if err != nil {
		return nil, err
	}
	if err := o.findAdmins(ctx, users); err != nil {
		return nil, err
	}
	return policy.Movers(&o.policy, room, &policy.Place{
		Host: g.Server, Users: users, IsLocal: o.IsLocal, Admins: func(user string) bool { return o.admins[user] },
	}), nil
}

// room gathers the facts about a group's room, once for all groups of the room.
func (o *overview) room(ctx context.Context, g *storage.Group) (*policy.Room, error) {
	if r := o.rooms[g.RoomID]; r != nil {
		return r, nil
	}
	facts, err := o.Rooms.Room(ctx, g.RoomID)
	if err != nil {
		return nil, err
	}
	joined := facts.Joined()
	r := &policy.Room{Levels: facts.Levels(), Joined: setOf(joined)}
	servers := append([]string{g.Server}, o.others...)
	for _, user := range joined {
		servers = append(servers, registry.ServerOf(user))
	}
	slices.Sort(servers)
	r.Denied = setOf(facts.Denied(slices.Compact(servers)))
	o.rooms[g.RoomID] = r
	return r, nil
}

// Readers lists who may read the groups of a room. See package redirects.
func (s overviews) Readers(ctx context.Context, roomID string) (*api.Readers, error) {
	room, err := s.Rooms.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	users := []string{}
	for _, user := range room.Joined() {
		if len(room.Denied([]string{registry.ServerOf(user)})) == 0 {
			users = append(users, user)
		}
	}
	return &api.Readers{RoomID: roomID, Known: room.Levels() != nil, Users: users}, nil
}

// findAdmins finds out which local users administer this server, if the policy asks for it.
func (o *overview) findAdmins(ctx context.Context, users map[string]bool) error {
	if o.policy.Source != policy.SourceServerAdmin {
		return nil
	}
	for user := range users {
		if _, known := o.admins[user]; known || !o.IsLocal(registry.ServerOf(user)) {
			continue
		}
		is, err := o.Rooms.Administers(ctx, user)
		if err != nil {
			return err
		}
		o.admins[user] = is
	}
	return nil
}

// Status describes this server for an operator.
func (s overviews) Status(ctx context.Context) (*api.Status, error) {
	f, err := s.Store.Figures(ctx)
	if err != nil {
		return nil, err
	}
	st := &api.Status{
		Server: s.Server, About: s.About, Groups: make(map[string]int), Members: f.Members,
		Migrations: map[string]map[string]int{string(migration.Source): {}, string(migration.Target): {}},
		Evidence:   make(map[string]int), Outbox: []api.Backlog{}, Peers: []api.FailingPeer{},
	}
	for _, state := range migration.GroupStates {
		st.Groups[string(state)] = f.Groups[state]
	}
	for class, n := range f.Migrations {
		st.Migrations[string(class.Role)][string(class.State)] = n
	}
	for kind, n := range f.Evidence {
		st.Evidence[string(kind)] = n
	}
	now := s.Now()
	for _, b := range f.Outbox {
		line := api.Backlog{Destination: b.Destination, Rows: b.Rows, Oldest: storage.Millis(b.Oldest), Attempts: b.Attempts}
		if !b.Oldest.IsZero() {
			line.Age = max(now.Sub(b.Oldest).Milliseconds(), 0)
		}
		st.Outbox = append(st.Outbox, line)
	}
	st.Peers = append(st.Peers, s.peers()...)
	st.Policy, err = s.PolicyOrigins(ctx)
	return st, err
}

// healthPatience is the longest wait for the database before this server counts as unable to work.
const healthPatience = 5 * time.Second

// errNoAnswer is the reason of an unhealthy server. It has no details, since anybody may ask.
var errNoAnswer = errors.New("the database does not answer")

// Health returns an error with the reason if this server cannot work now.
func (s overviews) Health(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthPatience)
	defer cancel()
	_, err := s.Store.Setting(ctx, policySetting)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return errNoAnswer
	}
	return nil
}
