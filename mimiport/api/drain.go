package api

// Intake says what a target would take of a room's groups now.
type Intake struct {
	Servers []string      `json:"servers"`           // of the named servers: those whose users may move a group
	Refusal IntakeRefusal `json:"refusal,omitempty"` // why there is none
	Limits  TargetLimits  `json:"limits"`
}

// MaxIntakeServers is the largest number of servers that a request for an Intake may name.
const MaxIntakeServers = 50

// IntakeRefusal says why a target takes no group of a room.
type IntakeRefusal string

// The refusals of an Intake.
const (
	IntakeRoom   IntakeRefusal = "room"   // the target or the asking server has no user in the room
	IntakeDenied IntakeRefusal = "denied" // the room's server ACL
	IntakePeer   IntakeRefusal = "peer"   // the target does not exchange groups with the asking server
	IntakeNobody IntakeRefusal = "nobody" // the target takes no groups
	IntakeUsers  IntakeRefusal = "users"  // the target takes none from users of the named servers
	IntakeFull   IntakeRefusal = "full"   // a quota of the target is used up
)

// DrainRequest starts a drain: this server empties itself. It also changes a drain that runs.
type DrainRequest struct {
	Targets  []string `json:"targets"`                   // servers to which groups may move, the first choice first
	Deadline int64    `json:"deadline_ms,omitempty"`     // from now; 0 means none
	Rate     int      `json:"rate_per_minute,omitempty"` // groups that this server deals with in a minute; 0 means 60
}

// The bounds of a DrainRequest.
const (
	MaxDrainTargets  = 16
	MaxDrainRate     = 6000
	DefaultDrainRate = 60
)

// DrainState is the state of a drain.
type DrainState string

// The states of a drain. In all but the first and the last one this server takes nothing new.
const (
	DrainNone    DrainState = "none"    // there has been no drain
	DrainRunning DrainState = "running" // this server asks members to move groups
	DrainDone    DrainState = "done"    // no group is left
	DrainOverdue DrainState = "overdue" // groups are left after the deadline: this server asks nobody any more
	DrainStopped DrainState = "stopped" // an operator has stopped the drain
)

// Drain is the state of a drain.
type Drain struct {
	State     DrainState              `json:"state"`
	Targets   []string                `json:"targets"`
	Rate      int                     `json:"rate_per_minute,omitempty"`
	StartedAt int64                   `json:"started_at,omitempty"`
	Deadline  int64                   `json:"deadline_at,omitempty"`
	StoppedAt int64                   `json:"stopped_at,omitempty"`
	Groups    map[DrainGroupState]int `json:"groups"` // by state; all states are there
	Total     int                     `json:"total"`  // the sum of Groups
	Left      int                     `json:"left"`   // the groups that are still here
	Away      []AwayServer            `json:"away"`   // servers that do not answer the drain
}

// AwayServer is a server that does not answer. This server tries it again at Until.
type AwayServer struct {
	Server string `json:"server"`
	Until  int64  `json:"until"`
	Error  string `json:"error"`
}

// DrainGroupState is the state of one group in a drain.
type DrainGroupState string

// The states of a group in a drain. The groups in the first four are still here.
const (
	DrainWaiting DrainGroupState = "waiting" // this server has not dealt with it yet, or will ask the next member
	DrainAsked   DrainGroupState = "asked"   // a member is asked to move it
	DrainMoving  DrainGroupState = "moving"  // a migration awaits its decision
	DrainStuck   DrainGroupState = "stuck"   // nobody can move it now
	DrainMoved   DrainGroupState = "moved"
	DrainGone    DrainGroupState = "gone" // it has been closed, or has gone in another way
)

// DrainGroupStates are all states of groups in a drain.
var DrainGroupStates = []DrainGroupState{
	DrainWaiting, DrainAsked, DrainMoving, DrainStuck, DrainMoved, DrainGone,
}

// DrainGroup is one group in a drain.
type DrainGroup struct {
	GroupID GroupID         `json:"group_id"`
	RoomID  string          `json:"room_id"`
	State   DrainGroupState `json:"state"`
	Asked   *AskedMember    `json:"asked,omitempty"`    // the last member who was asked
	MovedTo *MovedTo        `json:"moved_to,omitempty"` // of a group that has moved
	Why     []DrainReason   `json:"why"`                // of a group that is stuck
}

// AskedMember is the member whom this server asked last to move a group.
type AskedMember struct {
	UserID string `json:"user_id"`
	At     int64  `json:"at"`
	Until  int64  `json:"until"` // then this server asks the next member
	Tried  int    `json:"tried"` // how many members were asked, with this one
}

// DrainPlan says who can move a group where. Nobody has been asked yet.
type DrainPlan struct {
	GroupID GroupID       `json:"group_id"`
	RoomID  string        `json:"room_id"`
	Members int           `json:"members"` // leaves
	Moves   []DrainMove   `json:"moves"`   // in the order of the targets; only those with a mover
	Why     []DrainReason `json:"why"`     // the obstacles: of the whole group, and of each target that is not in Moves
}

// DrainMove has the members who can move a group to one target.
type DrainMove struct {
	Target string   `json:"target"`
	Users  []string `json:"users"` // at most MaxMovers, in the order in which they would be asked
	Total  int      `json:"total"`
}

// DrainReason is an obstacle to a move in a drain, with its remedy.
type DrainReason struct {
	Target string `json:"target,omitempty"` // absent if it stops the move to any target
	Reason
}
