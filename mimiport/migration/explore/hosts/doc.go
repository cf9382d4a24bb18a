// Package hosts searches who has a group, when servers claim it, forget, lie, or are out of service (profile,
// section 3). Package explore searches the messages of one hand-over. Here nothing is lost or late: whatever has
// been signed may be shown to any server at any time, and again. Decisions are those of packages migration and
// proof. The part of package delivery is in service.go.
//
// # The model
//
// A world is three servers, A, B and C. A has the group in the beginning. A server has its rows of the group by
// term, and its records of migrations. A lineage is a place in a tree of steps, and a scenario says which steps
// there may be. One table (actions.go) lists all that happens. It has three kinds of actions:
//
//   - chances: offers, Commits, a group that members close, claims by operators who may be wrong, a server that is
//     lost, out of service for a while or a day, or put back to a backup; whatever a hostile server can sign, in
//     whatever order; any word of the room;
//   - deliveries: everything signed arrives, and deadlines pass;
//   - remedies, by which the room and operators end what nothing else ends: the pointer names the claim of a server
//     that has the group, operators drop what waits for a source that is lost or lies, and recover a group that
//     nobody has.
//
// # Invariants
//
// invariants.go lists them. Some hold in every state. Others hold wherever all deliveries have been made: one host,
// unless the room has yet to choose, and then a server has evidence for its operator. Of each step this holds: a
// healthy host ends only by its own signature, the room or its operator; a server that stops for what it is shown keeps
// that; and what arrives twice changes nothing the second time. From every state deliveries and remedies can lead to
// one host, with every other server elsewhere: that is searched backwards from such states. bugs.go lists mistakes, and
// each is caught by an invariant.
//
// # Bounds
//
// The steps of each scenario, one restored backup, one time out of service, one Commit for each term. Once operators
// recover a group in the end, nothing more goes wrong. Members are left out. All scenarios together are 1.8 million
// states: a minute of one core, 0.4 GB.
//
// A server that has yielded in a later term than that of the lineage which prevails cannot have the group again in
// between: it refuses, and the group is recovered elsewhere. Of two moves that a source has confirmed for one term,
// because it is hostile or was restored in between, the room cannot name one: an operator yields. If one of the two
// targets waits no more, the search does not ask whether anybody gets the group again. A server closes in vain a group
// that it has recovered while its host goes on: only with the room's support is the group closed.
package hosts
