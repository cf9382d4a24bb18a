// Package policy says who may move a group (profile, section 8): an operator's policy, the facts of one migration, and the decision that
// follows from both.
package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// SourceMode says who may move a group away from this server (profile, section 8).
type SourceMode string

// The source modes.
const (
	SourcePowerLevel  SourceMode = "power_level"  // whoever may send the room's pointer event
	SourceAnyMember   SourceMode = "any_member"   // the draft's default
	SourceServerAdmin SourceMode = "server_admin" // administrators of this homeserver
	SourceNobody      SourceMode = "nobody"
)

// TargetMode says who may move a group to this server (profile, section 8).
type TargetMode string

// The target modes.
const (
	TargetLocalUsers    TargetMode = "local_users"
	TargetJoinedServers TargetMode = "joined_servers" // users of servers that are in the room
	TargetAnyCreator    TargetMode = "any_creator"    // whoever may create groups here: the draft's default
	TargetNobody        TargetMode = "nobody"
)

// DeviceKeysMode says whether a leaf's device must publish the leaf's key (profile, section 7).
type DeviceKeysMode string

// The device keys modes.
const (
	DeviceKeysRequired  DeviceKeysMode = "required"
	DeviceKeysPublished DeviceKeysMode = "published" // a device without a published key is let in by its own user's Commit
)

// Policy is what an operator decides (profile, section 8). A quota of 0 is none.
type Policy struct {
	Source       SourceMode `json:"source"`
	Target       TargetMode `json:"target"`
	Creators     []string   `json:"creators"`      // servers whose users may create groups here, besides local accounts
	AllowServers []string   `json:"allow_servers"` // when not empty, groups move to and from these only
	DenyServers  []string   `json:"deny_servers"`
	RequireRoom  bool       `json:"require_room"`  // the target must have a joined user in the room
	AcceptClaims bool       `json:"accept_claims"` // import groups that were reclaimed or recovered on their way
	Recover      bool       `json:"recover"`       // an administrator may take on a group whose host is lost
	Quotas       Quotas     `json:"quotas"`

	DeviceKeys DeviceKeysMode `json:"device_keys"`
	// ApplicationServices are users for whom DeviceKeysPublished holds in either mode. One * in a user id stands for any
	// characters.
	ApplicationServices []string `json:"application_services"`
}

// Quotas bound what others can make this server hold. Each bound for the whole server has shares: what one user, one
// room or one source may use of it.
type Quotas struct {
	Groups          int `json:"groups"`            // groups hosted here
	GroupsPerUser   int `json:"groups_per_user"`   // of those, created or moved here by one user
	GroupsPerRoom   int `json:"groups_per_room"`   // of those, in one room
	ReservedPerUser int `json:"reserved_per_user"` // ids given to one user that no group is bound to
	ReservedPerRoom int `json:"reserved_per_room"` // the same in one room
	Members         int `json:"members"`           // leaves of one group
	Offers          int `json:"offers"`            // open offers of one user
	OffersPerRoom   int `json:"offers_per_room"`   // open offers for groups of one room
	Staged          int `json:"staged"`            // migrations staged here
	StagedPerUser   int `json:"staged_per_user"`   // of those, begun by one user
	StagedPerRoom   int `json:"staged_per_room"`   // of those, of groups in one room
	StagedPerSource int `json:"staged_per_source"` // of those, from one server
	MovesPerHour    int `json:"moves_per_hour"`    // migrations begun for one user, aborted ones included
	AbortsAnHour    int `json:"aborts_an_hour"`    // aborted freezes of one group by one user
	BytesPerDay     int `json:"bytes_per_day"`     // that one user adds to the log of one group, on a day in UTC

	GroupsPerUserInRoom int `json:"groups_per_user_in_room"` // of a room's groups here, by one user
}

// Default is the profile's: stricter than the draft's defaults, which call themselves a bit liberal.
func Default() Policy {
	return Policy{
		Source: SourcePowerLevel, Target: TargetLocalUsers, RequireRoom: true, DeviceKeys: DeviceKeysRequired,
		Quotas: Quotas{
			Groups: 100_000, GroupsPerUser: 1000, GroupsPerRoom: 100, ReservedPerUser: 100, ReservedPerRoom: 500,
			Members: 50_000, Offers: 20, OffersPerRoom: 100,
			Staged: 100, StagedPerUser: 10, StagedPerRoom: 10, StagedPerSource: 25,
			MovesPerHour: 60, AbortsAnHour: 3, BytesPerDay: 256 << 20,
			GroupsPerUserInRoom: 50,
		},
	}
}

// Draft is the one that the draft suggests ("Authorization"), with lists and quotas off.
func Draft() Policy {
	return Policy{Source: SourceAnyMember, Target: TargetAnyCreator, RequireRoom: true, DeviceKeys: DeviceKeysRequired}
}

// Merge replaces the fields that patch names. {"preset": "draft"} or {"preset": "default"} replaces all fields first. An
// unknown field or value is a KindBadMessage error.
func (p Policy) Merge(patch json.RawMessage) (Policy, error) {
	const op = "set policy"
	// Decoding into a slice overwrites its elements, and p shares them with its origin.
	p.Creators, p.AllowServers, p.DenyServers = slices.Clone(p.Creators), slices.Clone(p.AllowServers), slices.Clone(p.DenyServers)
	p.ApplicationServices = slices.Clone(p.ApplicationServices)
	body := struct {
		Preset string `json:"preset"`
		*Policy
	}{Policy: &p}
	var preset struct {
		Preset string `json:"preset"`
	}
	if err := json.Unmarshal(patch, &preset); err != nil {
		return p, mimiport.Errorf(op, mimiport.KindBadMessage, "%w", err)
	}
	switch preset.Preset {
	case "":
	case "default":
		p = Default()
	case "draft":
		p = Draft()
	default:
		return p, mimiport.Errorf(op, mimiport.KindBadMessage, "unknown preset %q", preset.Preset)
	}
	dec := json.NewDecoder(bytes.NewReader(patch))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil {
		return p, mimiport.Errorf(op, mimiport.KindBadMessage, "%w", err)
	}
	return p, p.validate()
}

func (p *Policy) validate() error {
	const op = "set policy"
	if !slices.Contains([]SourceMode{SourcePowerLevel, SourceAnyMember, SourceServerAdmin, SourceNobody}, p.Source) {
		return mimiport.Errorf(op, mimiport.KindBadMessage, "unknown source mode %q", p.Source)
	}
	if !slices.Contains([]TargetMode{TargetLocalUsers, TargetJoinedServers, TargetAnyCreator, TargetNobody}, p.Target) {
		return mimiport.Errorf(op, mimiport.KindBadMessage, "unknown target mode %q", p.Target)
	}
	if !slices.Contains([]DeviceKeysMode{DeviceKeysRequired, DeviceKeysPublished}, p.DeviceKeys) {
		return mimiport.Errorf(op, mimiport.KindBadMessage, "unknown device keys mode %q", p.DeviceKeys)
	}
	q := p.Quotas
	if min(
		q.Groups, q.GroupsPerUser, q.GroupsPerRoom, q.ReservedPerUser, q.ReservedPerRoom, q.Members, q.Offers,
		q.OffersPerRoom, q.Staged, q.StagedPerUser, q.StagedPerRoom, q.StagedPerSource, q.MovesPerHour, q.AbortsAnHour,
		q.BytesPerDay, q.GroupsPerUserInRoom,
	) < 0 {
		return mimiport.Errorf(op, mimiport.KindBadMessage, "a quota is negative")
	}
	return nil
}

// Facts are what a decision depends on, gathered afresh each time.
type Facts struct {
	Side migration.Role // the side this server is on

	UserJoined       bool   // the user is joined to the room; false where this server cannot know
	UserMayPoint     bool   // the user may send the room's pointer event
	UserLocal        bool   // the user has a usable account on this server
	UserServer       string // the user's homeserver
	UserServerInRoom bool
	UserAdmin        bool     // the user administers this server
	Peer             string   // the other Delivery Service
	Denied           []string // those of both Delivery Services and the user's homeserver that the room's ACL denies
	TargetInRoom     bool     // the target has a joined user in the room
	RoomKnown        bool     // this server is in the room
	ForeignID        bool     // target: the group id is not of this profile's making
	Members          int      // target: leaves of the group, once they are known
}

// MayCreate says whether the user may create groups here (profile, section 8, any_creator).
func (p *Policy) MayCreate(userLocal bool, userServer string) bool {
	return userLocal || slices.Contains(p.Creators, userServer)
}

// IsApplicationService says whether the policy names a user as one of an application service.
func (p *Policy) IsApplicationService(userID string) bool {
	return slices.ContainsFunc(p.ApplicationServices, func(pattern string) bool {
		before, after, open := strings.Cut(pattern, "*")
		if !open {
			return pattern == userID
		}
		return len(userID) >= len(before)+len(after) && strings.HasPrefix(userID, before) && strings.HasSuffix(userID, after)
	})
}

// MayBeKeyless says whether a user's own Commit may bring in a leaf of a device that publishes no key.
func (p *Policy) MayBeKeyless(userID string) bool {
	return p.DeviceKeys == DeviceKeysPublished || p.IsApplicationService(userID)
}

// Decide says whether a migration may go on; nil means yes. It is asked at the request, at the Init, before the content
// leaves, before the target votes and in the deciding transaction (profile, section 8). Refusals are KindForbidden.
func Decide(p *Policy, f *Facts) error {
	if reason := p.refusal(f); reason != "" {
		return &mimiport.Error{Op: "policy", Kind: mimiport.KindForbidden, Err: errors.New(reason)}
	}
	if most := p.Quotas.Members; most > 0 && f.Members > most {
		return Exceeded("members")
	}
	return nil
}

// DecideClose says whether a group may be closed: by whoever may move it away, wherever to. Refusals are KindForbidden.
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
	switch {
	case slices.Contains(p.DenyServers, f.Peer):
		return "this server does not exchange groups with " + f.Peer
	case len(p.AllowServers) > 0 && !slices.Contains(p.AllowServers, f.Peer):
		return "this server exchanges groups with listed servers only"
	case len(f.Denied) > 0:
		return "the room's server ACL denies " + f.Denied[0]
	case p.RequireRoom && !f.TargetInRoom:
		return "the target has no joined user in the room"
	case f.RoomKnown && !f.UserJoined:
		return "the user is not joined to the room"
	case f.Side == migration.Source:
		return p.sourceRefusal(f)
	}
	return p.targetRefusal(f)
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
	case p.Target == TargetNobody:
		return "groups do not move to this server"
	case p.Target == TargetLocalUsers && !f.UserLocal:
		return "only local users may move groups to this server"
	case p.Target == TargetJoinedServers && !f.UserServerInRoom:
		return "the user's server is not in the room"
	case p.Target == TargetAnyCreator && !p.MayCreate(f.UserLocal, f.UserServer):
		return "the user may not create groups on this server"
	case f.ForeignID && !f.UserLocal && !slices.Contains(p.AllowServers, f.Peer):
		return "groups with foreign ids come from local users and listed servers only"
	}
	return ""
}
