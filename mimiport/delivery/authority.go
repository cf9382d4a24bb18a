package delivery

import (
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

// requireMember fails unless the room's current state has the caller joined, and the room's server ACL allows the
// caller's homeserver.
func (a authority) requireMember(ctx context.Context, c api.Caller, roomID string) error {
	st, err := a.standing(ctx, c, roomID)
	if err != nil {
		return err
	}
	if st.Left {
		return hostLeft()
	}
	return a.requireStanding(ctx, c, roomID, st)
}

// standing returns the caller's place in a room. It fails for a caller who is not a user.
func (a authority) standing(ctx context.Context, c api.Caller, roomID string) (Standing, error) {
	if c.UserID == "" {
		return Standing{}, mimiport.Errorf("authorise", mimiport.KindForbidden, "this needs a user")
	}
	return a.Rooms.Standing(ctx, roomID, c.UserID)
}

// requireStanding fails unless the caller, with this standing, is joined to the room, and the room's server ACL allows
// the caller's homeserver. If this server has left the room, the last state that it saw counts.
func (a authority) requireStanding(ctx context.Context, c api.Caller, roomID string, st Standing) error {
	switch {
	case st.Left && !st.Joined:
		return hostLeft()
	case !st.Joined:
		return mimiport.Errorf("authorise", mimiport.KindForbidden, "%s is not joined to the room", c.UserID)
	}
	return a.requireAllowed(ctx, roomID, []string{registry.ServerOf(c.UserID)})
}

// hostLeft is the refusal of a request that this server cannot decide because it has left the room.
func hostLeft() error {
	return forbidden(ruleHostLeftRoom,
		"this server has left the room: its members can read the group, and move it away by the last state seen here")
}

// absent returns the users who are not joined to the room. If this server was never in the room, and its policy lets it
// host groups of such rooms, absent returns nobody: then MLS alone says who is a member.
func (a authority) absent(ctx context.Context, roomID string, users []string) ([]string, error) {
	missing, err := a.Rooms.NotJoined(ctx, roomID, users)
	if err != nil || len(missing) == 0 {
		return nil, err
	}
	st, err := a.Rooms.Standing(ctx, roomID, missing[0])
	if err != nil || st.Exists {
		return missing, err
	}
	p, err := a.Policy(ctx)
	if err != nil || p.RequireRoom {
		return missing, err
	}
	return nil, nil
}

// requireAllowed fails when the room's current server ACL denies one of the servers (profile, section 7).
func (a authority) requireAllowed(ctx context.Context, roomID string, servers []string) error {
	denied, err := a.Rooms.Denied(ctx, roomID, servers)
	if err != nil {
		return err
	}
	if len(denied) > 0 {
		return mimiport.Errorf("authorise", mimiport.KindForbidden, "the room's server ACL denies %s", denied[0])
	}
	return nil
}

// requireAdmissible fails unless each user may have a leaf: the user is joined to the room, and the room's server ACL
// allows the user's homeserver.
func (a authority) requireAdmissible(ctx context.Context, roomID string, users []string) error {
	if err := a.requireJoined(ctx, roomID, users); err != nil {
		return err
	}
	var servers []string
	for _, user := range users {
		servers = append(servers, registry.ServerOf(user))
	}
	slices.Sort(servers)
	return a.requireAllowed(ctx, roomID, slices.Compact(servers))
}

// requireJoined fails unless all users are joined to the room.
func (a authority) requireJoined(ctx context.Context, roomID string, users []string) error {
	if len(users) == 0 {
		return nil
	}
	missing, err := a.absent(ctx, roomID, users)
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
	levels, err := a.Rooms.Levels(ctx, roomID)
	if err != nil || levels == nil {
		return nil, err
	}
	joined, err := a.Rooms.Joined(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if !levels.Explicit {
		levels.Pointer = api.ReservedLevel // the binding reserves the event
	}
	servers := make(map[string]bool)
	for _, user := range joined {
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
	p, err := a.Policy(ctx)
	if err != nil {
		return err
	}
	f, err := a.facts(ctx, side, m, c)
	if err != nil {
		return err
	}
	if content != nil {
		f.Members, f.ForeignID = content.members, content.foreignID
	}
	return policy.Decide(&p, f)
}

func (a authority) facts(
	ctx context.Context, side migration.Role, m *migration.Migration, c api.Caller,
) (*policy.Facts, error) {
	user := c.UserID
	if user == "" {
		user = m.User
	}
	f := &policy.Facts{
		Side: side, UserServer: registry.ServerOf(user), UserAdmin: c.Admin || c.UserID == "" && m.ByAdmin, Peer: m.Target,
	}
	if side == migration.Target {
		f.Peer = m.Source
	}
	st, err := a.Rooms.Standing(ctx, m.RoomID, user)
	if err != nil {
		return nil, err
	}
	// A target ignores the last state of a room that it has left.
	f.RoomKnown = st.Exists && !(st.Left && side == migration.Target)
	f.UserJoined, f.UserMayPoint = st.Joined, st.Power >= st.PointerLevel
	if f.Denied, err = a.Rooms.Denied(ctx, m.RoomID, []string{m.Source, m.Target, f.UserServer}); err != nil {
		return nil, err
	}
	if f.TargetInRoom, err = a.Rooms.ServerJoined(ctx, m.RoomID, m.Target); err != nil {
		return nil, err
	}
	if f.UserServerInRoom, err = a.Rooms.ServerJoined(ctx, m.RoomID, f.UserServer); err != nil {
		return nil, err
	}
	if a.IsLocal(f.UserServer) {
		f.UserLocal, err = a.Rooms.LocalAccount(ctx, user)
	}
	return f, err
}
