// Package hosts searches for the server that has a group when servers claim it, forget, lie, or are out of service
// (profile, section 3). Package explore searches the messages of one hand-over. Here no message is lost or late:
// anybody may show any signed message to any server at any time, and again. Packages migration and proof make the
// decisions. service.go plays the part of package delivery.
//
// # The model
//
// A world has three servers, A, B and C. A has the group in the beginning. A server has its rows of the group by term,
// and its records of migrations. A lineage is a place in a tree of steps. A scenario lists the possible steps. One
// table (actions.go) lists all actions. They are of three kinds:
//
//   - A chance may happen: an offer, a Commit, a close by members, or a claim by an operator, who may be wrong. A
//     server may be lost, be out of service for a while or a day, or be restored from a backup. A hostile server may
//     sign anything that it can sign, in any order. The room's pointer may name any claim.
//   - A delivery happens in the end: every signed message arrives, and deadlines pass.
//   - A remedy is the last resort of the room and its operators. The pointer names the claim of a server that has the
//     group. Operators drop a group that waits for a source that is lost or lies. They recover a group that no server
//     has. They yield to another server.
//
// # Invariants
//
// invariants.go lists the invariants. Some hold in every state. Others hold in each state that no delivery changes any
// more: there is one host, or the room has yet to choose and a server has evidence for its operator. Others hold for
// each step. A healthy host ends only by its own signature, the room or its operator. A server that stops for a message
// keeps that message as evidence. A message that arrives twice changes nothing the second time. From every state
// deliveries and remedies can lead to a state with one host, where no other server has the group or waits for it. The
// search checks this backwards from such states. bugs.go lists mistakes: an invariant catches each of them.
//
// # Bounds
//
// A search has the steps of its scenario, one restored backup, one time out of service, and one Commit for each term.
// When operators have recovered a group in the end, nothing more goes wrong. The model leaves out members. All
// scenarios together have 1.8 million states: a minute of one core, 0.4 GB.
//
// A server may have yielded in a later term than the last term of the lineage that prevails. Such a server cannot have
// the group again in a term between: it refuses, and an operator recovers the group at another server. A source that is
// hostile, or was restored in between, may confirm two moves of one term. The room's pointer cannot name a move: an
// operator yields. If one of the two targets waits no more, the search does not require that any server gets the group
// again. A server may recover a group whose host goes on, and then close it. The group is closed only if the room
// supports the recover.
package hosts
