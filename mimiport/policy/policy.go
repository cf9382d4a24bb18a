// Package policy decides who may move a group (profile, section 8). It has an operator's policy, the facts of one
// migration, and the decision that follows from both.
package policy

import (
	"errors"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/acl"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// SourceMode defines which users may move a group away from this server (profile, section 8).
type SourceMode string

// The source modes.
const (
	SourcePowerLevel  SourceMode = "power_level"  // users who may send the room's pointer event
	SourceAnyMember   SourceMode = "any_member"   // any member; the draft's default
	SourceServerAdmin SourceMode = "server_admin" // administrators of this homeserver
	SourceNobody      SourceMode = "nobody"
)

// TargetMode defines which users may move a group to this server (profile, section 8).
type TargetMode string

// The target modes.
const (
	TargetLocalUsers    TargetMode = "local_users"
	TargetJoinedServers TargetMode = "joined_servers" // users of servers that are in the room
	TargetAnyCreator    TargetMode = "any_creator"    // users who may create groups here; the draft's default
	TargetNobody        TargetMode = "nobody"
)

// DeviceKeysMode defines whether a leaf's device must publish the leaf's key (profile, section 7).
type DeviceKeysMode string

// The device keys modes.
const (
	DeviceKeysRequired  DeviceKeysMode = "required"
	DeviceKeysPublished DeviceKeysMode = "published" // a user's own Commit may add a device that publishes no key
)

// Policy has an operator's decisions (profile, section 8). A quota of 0 means no quota.
type Policy struct {
	Source       SourceMode `json:"source"`
	Target       TargetMode `json:"target"`
	Creators     []string   `json:"creators"`      // servers whose users may create groups here, as local users may
	AllowServers []string   `json:"allow_servers"` // groups move to and from only these; empty means any server
	DenyServers  []string   `json:"deny_servers"`  // groups do not move to or from these
	RequireRoom  bool       `json:"require_room"`  // the target must have a joined user in the room
	AcceptDrain  []string   `json:"accept_drain"`  // any member may move groups here from these servers
	AcceptClaims bool       `json:"accept_claims"` // accept groups whose lineage has a reclaim or a recovery
	Recover      bool       `json:"recover"`       // an administrator may recover a group whose host is lost
	Quotas       Quotas     `json:"quotas"`

	DeviceKeys DeviceKeysMode `json:"device_keys"`
	// ApplicationServices names users for whom DeviceKeysPublished applies in either mode. A * in a user id stands for
	// any characters. Only the first * does so.
	ApplicationServices []string `json:"application_services"`
}

// Quotas limits the state that other servers and users can make this server keep. A limit for the whole server comes
// with smaller limits for one user, one room or one source.
type Quotas struct {
	Groups          int `json:"groups"`            // groups hosted here
	GroupsPerUser   int `json:"groups_per_user"`   // groups hosted here that one user created or moved here
	GroupsPerRoom   int `json:"groups_per_room"`   // groups hosted here in one room
	ReservedPerUser int `json:"reserved_per_user"` // group ids that one user reserved and that have no group yet
	ReservedPerRoom int `json:"reserved_per_room"` // group ids reserved in one room that have no group yet
	Members         int `json:"members"`           // leaves of one group
	Offers          int `json:"offers"`            // open offers of one user
	OffersPerRoom   int `json:"offers_per_room"`   // open offers for groups of one room
	Staged          int `json:"staged"`            // migrations staged here
	StagedPerUser   int `json:"staged_per_user"`   // migrations staged here that one user began
	StagedPerRoom   int `json:"staged_per_room"`   // migrations staged here of groups in one room
	StagedPerSource int `json:"staged_per_source"` // migrations staged here from one server
	MovesPerHour    int `json:"moves_per_hour"`    // migrations that one user began, with aborted ones
	AbortsAnHour    int `json:"aborts_an_hour"`    // aborted freezes of one group by one user
	BytesPerDay     int `json:"bytes_per_day"`     // bytes that one user adds to the log of one group on a UTC day

	GroupsPerUserInRoom int `json:"groups_per_user_in_room"` // groups hosted here in one room, of one user
	StagedPerUserInRoom int `json:"staged_per_user_in_room"` // migrations staged here of groups in one room, of one user
}

// Default makes the profile's policy. It is stricter than the draft's defaults, which the draft calls a bit liberal.
func Default() Policy {
	return Policy{
		Source: SourcePowerLevel, Target: TargetLocalUsers, RequireRoom: true, DeviceKeys: DeviceKeysRequired,
		Quotas: Quotas{
			Groups: 100_000, GroupsPerUser: 1000, GroupsPerRoom: 100, ReservedPerUser: 100, ReservedPerRoom: 500,
			Members: 50_000, Offers: 20, OffersPerRoom: 100,
			Staged: 100, StagedPerUser: 10, StagedPerRoom: 10, StagedPerSource: 25,
			MovesPerHour: 60, AbortsAnHour: 3, BytesPerDay: 256 << 20,
			GroupsPerUserInRoom: 50, StagedPerUserInRoom: 5,
		},
	}
}

// Draft makes the policy that the draft suggests (section "Authorization"), without lists and quotas.
func Draft() Policy {
	return Policy{Source: SourceAnyMember, Target: TargetAnyCreator, RequireRoom: true, DeviceKeys: DeviceKeysRequired}
}

// Facts has the facts that a decision depends on. The caller gathers them anew for each decision.
type Facts struct {
	Side migration.Role // the side this server is on

	UserJoined       bool   // the user is joined to the room; false when this server cannot know
	UserMayPoint     bool   // the user may send the room's pointer event
	UserLocal        bool   // the user has a usable account on this server
	UserServer       string // the user's homeserver
	UserServerInRoom bool
	UserAdmin        bool     // the user administers this server
	Peer             string   // the other Delivery Service
	Denied           []string // of source, target and the user's homeserver: those that the room's ACL denies
	TargetInRoom     bool     // the target has a joined user in the room
	RoomKnown        bool     // this server is in the room
	ForeignID        bool     // only on the target: the group id does not have the form of this profile
	Members          int      // only on the target: leaves of the group, 0 until they are known
	Draining         bool     // this server empties itself
	DrainTarget      bool     // the drain names the peer as a target
}

// Draining is the refusal of a server that empties itself and takes nothing new.
const Draining = "this server is being emptied, and takes no groups"

// MayCreate reports whether a user may create groups here (profile, section 8, any_creator).
func (p *Policy) MayCreate(userLocal bool, userServer string) bool {
	return userLocal || acl.Matches(p.Creators, userServer)
}

// IsApplicationService reports whether ApplicationServices names a user.
func (p *Policy) IsApplicationService(userID string) bool {
	return slices.ContainsFunc(p.ApplicationServices, func(pattern string) bool {
		before, after, open := strings.Cut(pattern, "*")
		if !open {
			return pattern == userID
		}
		return len(userID) >= len(before)+len(after) && strings.HasPrefix(userID, before) && strings.HasSuffix(userID, after)
	})
}

// MayBeKeyless reports whether a user's own Commit may add a leaf of a device that publishes no key.
func (p *Policy) MayBeKeyless(userID string) bool {
	return p.DeviceKeys == DeviceKeysPublished || p.IsApplicationService(userID)
}

// Decide returns nil when the policy allows a migration to go on, and a KindForbidden error otherwise. The server
// calls it at the request, at the Init, before the source sends the content, before the target votes, and in the
// deciding transaction (profile, section 8).
func Decide(p *Policy, f *Facts) error {
	if reason := p.refusal(f); reason != "" {
		return &mimiport.Error{Op: "policy", Kind: mimiport.KindForbidden, Err: errors.New(reason)}
	}
	if most := p.Quotas.Members; most > 0 && f.Members > most {
		return Exceeded("members")
	}
	return nil
}

// DecideClose returns nil when the user may close a group, and a KindForbidden error otherwise. A user may close a
// group when they may move it away. The rules about the target play no part.
func DecideClose(p *Policy, f *Facts) error {
	reason := p.sourceRefusal(f)
	if f.RoomKnown && !f.UserJoined {
		reason = "the user is not joined to the room"
	}
	if reason != "" {
		return &mimiport.Error{Op: "close group", Kind: mimiport.KindForbidden, Err: errors.New(reason)}
	}
	return nil
}

func (p *Policy) refusal(f *Facts) string {
	if f.Draining && f.Side == migration.Target {
		return Draining
	}
	if f.Draining && f.DrainTarget { // then the rest of the source's policy plays no part
		d := p.Drained()
		p = &d
	}
	if reason := p.peerRefusal(f); reason != "" {
		return reason
	}
	switch {
	case f.RoomKnown && !f.UserJoined:
		return "the user is not joined to the room"
	case f.Side == migration.Source:
		return p.sourceRefusal(f)
	}
	return p.targetRefusal(f)
}

// Drained returns the policy of a source for moves to the targets of its drain: any member may move a group there.
func (p Policy) Drained() Policy {
	p.Source, p.RequireRoom, p.AllowServers, p.DenyServers = SourceAnyMember, false, nil, nil
	return p
}

// Exchanges reports whether the policy lets groups move to and from a server.
func (p *Policy) Exchanges(server string) bool { return p.listRefusal(server) == "" }

// listRefusal is the part of the decision that depends on the lists of servers alone.
func (p *Policy) listRefusal(server string) string {
	switch {
	case acl.Matches(p.DenyServers, server):
		return "this server does not exchange groups with " + server
	case len(p.AllowServers) > 0 && !acl.Matches(p.AllowServers, server):
		return "this server exchanges groups with listed servers only"
	}
	return ""
}

// AcceptsDrainOf reports whether a target's operator accepts all groups that a server gives up.
func (p *Policy) AcceptsDrainOf(server string) bool { return acl.Matches(p.AcceptDrain, server) }

// peerRefusal is the part of the decision that depends on servers alone.
func (p *Policy) peerRefusal(f *Facts) string {
	if reason := p.listRefusal(f.Peer); reason != "" {
		return reason
	}
	switch {
	case len(f.Denied) > 0:
		return "the room's server ACL denies " + f.Denied[0]
	case p.RequireRoom && !f.TargetInRoom:
		return "the target has no joined user in the room"
	}
	return ""
}

func (p *Policy) sourceRefusal(f *Facts) string {
	switch {
	case p.Source == SourceNobody:
		return "groups do not move away from this server"
	case p.Source == SourceServerAdmin && !f.UserAdmin:
		return "only administrators of this server may move groups away"
	case p.Source == SourcePowerLevel && !f.UserMayPoint:
		return "the user's power level does not allow moving the group"
	}
	return ""
}

func (p *Policy) targetRefusal(f *Facts) string {
	switch {
	case p.AcceptsDrainOf(f.Peer):
		return ""
	case p.Target == TargetNobody:
		return "groups do not move to this server"
	case p.Target == TargetLocalUsers && !f.UserLocal:
		return "only local users may move groups to this server"
	case p.Target == TargetJoinedServers && !f.UserServerInRoom:
		return "the user's server is not in the room"
	case p.Target == TargetAnyCreator && !p.MayCreate(f.UserLocal, f.UserServer):
		return "the user may not create groups on this server"
	case f.ForeignID && !f.UserLocal && !acl.Matches(p.AllowServers, f.Peer):
		return "groups with foreign ids come from local users and listed servers only"
	}
	return ""
}
