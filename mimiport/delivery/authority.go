package delivery

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// authority decides from the room's current state and the operator's policy who may do what.
type authority struct{ *Deps }

// policySetting is the name under which the operator's policy is stored.
const policySetting = "policy"

// Policy returns the policy in force: the configured defaults, or the policy that the admin API has set since.
func (a authority) Policy(ctx context.Context) (policy.Policy, error) {
	raw, err := a.Store.Setting(ctx, policySetting)
	if errors.Is(err, storage.ErrNotFound) {
		return a.DefaultPolicy, nil
	}
	if err != nil {
		return policy.Policy{}, err
	}
	return a.DefaultPolicy.Stored(raw)
}

// SetPolicy puts patch over the configured policy and over earlier patches, and keeps it across restarts. The preset
// "section" drops all earlier patches. The result counts from the next decision on.
func (a authority) SetPolicy(ctx context.Context, patch json.RawMessage) (policy.Policy, error) {
	stored, err := a.setByOperator(ctx)
	if err != nil {
		return policy.Policy{}, err
	}
	if rest, ok := policy.CutSection(patch); ok {
		stored, patch = noFields, rest
	}
	if stored, err = policy.Overlay(stored, patch); err != nil {
		return policy.Policy{}, err
	}
	if err := a.Store.PutSetting(ctx, policySetting, stored); err != nil {
		return policy.Policy{}, err
	}
	return a.Policy(ctx)
}

var noFields = json.RawMessage("{}")

// setByOperator returns the fields of the policy that operators have set by the admin API.
func (a authority) setByOperator(ctx context.Context) (json.RawMessage, error) {
	raw, err := a.Store.Setting(ctx, policySetting)
	if errors.Is(err, storage.ErrNotFound) {
		return noFields, nil
	}
	return raw, err
}

// PolicyOrigins returns each field of the policy in force by its path, with the origin of its value.
func (a authority) PolicyOrigins(ctx context.Context) (map[string]api.PolicyValue, error) {
	p, err := a.Policy(ctx)
	if err != nil {
		return nil, err
	}
	stored, err := a.setByOperator(ctx)
	if err != nil {
		return nil, err
	}
	all := make(map[string]api.PolicyValue)
	for path, value := range p.Values() {
		all[path] = api.PolicyValue{Value: value, Origin: api.OriginDefault}
	}
	mark := func(paths []string, origin api.Origin) {
		for _, path := range paths {
			if v, ok := all[path]; ok {
				v.Origin = origin
				all[path] = v
			}
		}
	}
	mark(a.ConfiguredPolicy, api.OriginSection)
	mark(policy.Fields(stored), api.OriginAdministrator)
	return all, nil
}

// requireMemberAt fails unless the room's current state has the caller joined, and the room's server ACL allows the
// caller's homeserver.
func (a authority) requireMemberAt(ctx context.Context, c api.Caller, roomID string) error {
	room, err := a.Rooms.Room(ctx, roomID)
	if err != nil {
		return err
	}
	return requireMember(room, c)
}

// requireMember fails unless the room has the caller joined, and its server ACL allows the caller's homeserver.
func requireMember(room Room, c api.Caller) error {
	st, err := standing(room, c)
	if err != nil {
		return err
	}
	if st.Left {
		return hostLeft()
	}
	return requireStanding(room, c, st)
}

// standing returns the caller's place in a room. It fails for a caller who is not a user.
func standing(room Room, c api.Caller) (Standing, error) {
	if c.UserID == "" {
		return Standing{}, mimiport.Errorf("authorise", mimiport.KindForbidden, "this needs a user")
	}
	return room.Standing(c.UserID), nil
}

// requireStanding fails unless the caller, with this standing, is joined to the room, and the room's server ACL allows
// the caller's homeserver. If this server has left the room, the last state that it saw counts.
func requireStanding(room Room, c api.Caller, st Standing) error {
	switch {
	case st.Left && !st.Joined:
		return hostLeft()
	case !st.Joined:
		return mimiport.Errorf("authorise", mimiport.KindForbidden, "%s is not joined to the room", c.UserID)
	}
	return requireAllowed(room, []string{registry.ServerOf(c.UserID)})
}

// hostLeft is the refusal of a request that this server cannot decide because it has left the room.
func hostLeft() error {
	return forbidden(ruleHostLeftRoom,
		"this server has left the room: its members can read the group, and move it away by the last state seen here")
}

// absent returns the users who are not joined to the room. If this server was never in the room, and its policy lets it
// host groups of such rooms, absent returns nobody: then MLS alone says who is a member.
func (a authority) absent(ctx context.Context, room Room, users []string) ([]string, error) {
	missing := room.NotJoined(users)
	if len(missing) == 0 || room.Standing(missing[0]).Exists {
		return missing, nil
	}
	p, err := a.Policy(ctx)
	if err != nil || p.RequireRoom {
		return missing, err
	}
	return nil, nil
}

// requireAllowed fails when the room's current server ACL denies one of the servers (profile, section 7).
func requireAllowed(room Room, servers []string) error {
	if denied := room.Denied(servers); len(denied) > 0 {
		return mimiport.Errorf("authorise", mimiport.KindForbidden, "the room's server ACL denies %s", denied[0])
	}
	return nil
}

// requireAdmissible fails unless each user may have a leaf: the user is joined to the room, and the room's server ACL
// allows the user's homeserver.
func (a authority) requireAdmissible(ctx context.Context, room Room, users []string) error {
	if err := a.requireJoined(ctx, room, users); err != nil {
		return err
	}
	var servers []string
	for _, user := range users {
		servers = append(servers, registry.ServerOf(user))
	}
	slices.Sort(servers)
	return requireAllowed(room, slices.Compact(servers))
}

// requireJoined fails unless all users are joined to the room.
func (a authority) requireJoined(ctx context.Context, room Room, users []string) error {
	missing, err := a.absent(ctx, room, users)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return forbidden(ruleJoined, "%s is not joined to the room", missing[0])
	}
	return nil
}

// requireCreator fails unless the caller may create groups here.
func (a authority) requireCreator(ctx context.Context, c api.Caller) error {
	p, err := a.Policy(ctx)
	if err != nil {
		return err
	}
	local := false
	if a.IsLocal(c.Server) {
		if local, err = a.Rooms.LocalAccount(ctx, c.UserID); err != nil {
			return err
		}
	}
	if !p.MayCreate(local, c.Server) {
		return mimiport.Errorf("reserve group", mimiport.KindForbidden, "%s may not create groups on this server", c.UserID)
	}
	return nil
}

// warnings returns the warnings for the user who binds a group: WarnOneServer if all users who may move the group are
// on one server.
func (a authority) warnings(ctx context.Context, roomID string) ([]string, error) {
	p, err := a.Policy(ctx)
	if err != nil || p.Source == policy.SourceNobody || p.Source == policy.SourceServerAdmin {
		return nil, err
	}
	room, err := a.Rooms.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	levels := room.Levels()
	if levels == nil {
		return nil, nil
	}
	if !levels.Explicit {
		levels.Pointer = api.ReservedLevel // the binding reserves the event
	}
	servers := make(map[string]bool)
	for _, user := range room.Joined() {
		if p.Source == policy.SourceAnyMember || levels.Of(user) >= levels.Pointer {
			servers[registry.ServerOf(user)] = true
		}
	}
	if len(servers) != 1 {
		return nil, nil
	}
	return []string{api.WarnOneServer}, nil
}

// arriving holds the facts that only the content of a migration shows.
type arriving struct {
	members   int
	foreignID bool
}

// decide gathers the facts and asks the policy. Both sides call it at every step. A nil content means that no content
// has come yet.
func (a authority) decide(
	ctx context.Context, side migration.Role, m *migration.Migration, c api.Caller, content *arriving,
) error {
	room, err := a.Rooms.Room(ctx, m.RoomID)
	if err != nil {
		return err
	}
	f := facts(room, side, m, c)
	if side == migration.Target && a.IsLocal(f.UserServer) {
		if f.UserLocal, err = a.Rooms.LocalAccount(ctx, userOf(m, c)); err != nil {
			return err
		}
	}
	if content != nil {
		f.Members, f.ForeignID = content.members, content.foreignID
	}
	return a.judge(ctx, f)
}

// judge asks the policy. It asks no host, so a source may call it while it holds the group.
func (a authority) judge(ctx context.Context, f *policy.Facts) error {
	p, err := a.Policy(ctx)
	if err != nil {
		return err
	}
	o, err := a.order(ctx)
	if err != nil {
		return err
	}
	f.Draining, f.DrainTarget = o.on(), o.names(f.Peer)
	return policy.Decide(&p, f)
}

// userOf returns the user who wants a migration: the caller, or the user who began it.
func userOf(m *migration.Migration, c api.Caller) string { return cmp.Or(c.UserID, m.User) }

// facts returns the facts about a migration that the room has. UserLocal is not one of them.
func facts(room Room, side migration.Role, m *migration.Migration, c api.Caller) *policy.Facts {
	user := userOf(m, c)
	st, server := room.Standing(user), registry.ServerOf(user)
	f := &policy.Facts{
		Side: side, UserServer: server, UserAdmin: c.Admin || c.UserID == "" && m.ByAdmin, Peer: m.Target,
		// A target ignores the last state of a room that it has left.
		RoomKnown:  st.Exists && !(st.Left && side == migration.Target),
		UserJoined: st.Joined, UserMayPoint: st.Power >= st.PointerLevel, UserServerInRoom: room.ServerJoined(server),
		Denied: room.Denied([]string{m.Source, m.Target, server}), TargetInRoom: room.ServerJoined(m.Target),
	}
	if side == migration.Target {
		f.Peer = m.Source
	}
	return f
}
