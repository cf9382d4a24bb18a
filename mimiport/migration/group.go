package migration

// GroupState is where a group stands on this server in one term.
type GroupState string

// The states of a group. A group of a later term supersedes all earlier ones.
const (
	GroupReserved GroupState = "reserved" // the id is handed out, no group is bound to it
	GroupActive   GroupState = "active"
	GroupFrozen   GroupState = "frozen"  // a migration awaits its decision
	GroupStopped  GroupState = "stopped" // its members are in a later epoch: a backup was restored; an operator decides
	GroupMoved    GroupState = "moved"   // decided; the redirect is kept for good
	GroupStaged   GroupState = "staged"  // voted for: waits for the source's decision
	GroupDropped  GroupState = "dropped" // was staged and is not coming
)
