// Package explore searches everything that can happen to the hand-over of profile, section 6, within bounds, and checks
// in each state what must hold. Neither decisions nor what follows from them are modelled: they are those of package
// migration, whose Step runs in every step of the search, and whose Ready values the search stores as package delivery
// does. Package hosts, below, searches who has a group when servers claim it, forget or lie.
//
// # The model
//
// A world is two servers, A and B, the group, which A hosts in the beginning, two members, x and y, and the network.
// Each member may, for each term, ask for one migration. 1x is the one towards term 1 that x asked for, 2y leads back
// from B to A. One table (actions.go) lists all that happens, each line with the function that does it:
//
//   - A member asks the target, starts with a Commit and an Init, sends the Init again, aborts, learns of an abort,
//     receives the next Commit of the server it holds for current, commits for itself once, or shows the target a
//     confirmation it has received.
//   - A server takes a message, works off a row of its outbox, or minds a deadline. One function (store, in
//     service.go) says how a migration.Ready looks in a world: the record, the group's row, a bit for each kind of
//     outbox row, one for the stored content.
//   - S asks T before it freezes. T asks S how a staged migration ended, at any time, since T's clock decides nothing.
//   - S minds decide_by, or takes a vote that comes after it, at any time, and T minds the expiry of an offer. T may
//     refuse any content.
//
// Any message can be late by any time, so they overtake each other at will, and be lost or arrive twice. A server can
// crash at any time: before it has saved, or when it has saved and not sent. A lost compare-and-set is no step of its
// own: the loser writes nothing and starts anew. Servers and members are honest. Keys, policy, retention and the tree
// are left out. Of what a Ready asks for the model leaves out the removal of who left meanwhile, and the lineage, which
// the history of a group tells.
//
// # Bounds
//
// Two members, there and back, one Commit of its own for each member. There may be any number of crashes, losses and
// repetitions: a state does not hold how many there were, so a bound on them would save few states, and have each
// searched again with more of them left. Within the bounds the search is complete, breadth first. `make explore` does
// it: 2,308,017 states, at most 30 steps deep, in 17 minutes on two busy cores. `go test` searches one migration, and
// there and back with one member who asks for each.
//
// A state has no ids, clocks or counters. That a deadline passes is no event of its own. Only the server whose
// deadline it is can tell, and only when it minds the deadline or takes a message. Nothing else depends on it, so it
// may as well pass just then: S minds decide_by or takes a late vote, T minds the expiry or refuses a late content, as
// it may refuse any. Worlds that differ in the names of the two members are one. So are those that differ in what
// cannot matter (tidy.go): members receive at once what was accepted; a row's message is on its way as long as the row
// is there; what reaches a record that has ended is taken at once, if the machine, when asked, says that it is without
// effect; and of an offer for an epoch that is over, which can freeze nothing any more, nothing is kept.
//
// # Invariants
//
// invariants.go lists what holds in every state and of every step: one server at most accepts Commits; the accepted
// Commits are one chain, and members merge no others; what is confirmed is never undone, what is aborted never
// activates; a migration ends once; the source signs one outcome, by its own clock; whatever is signed and sent is in
// its signer's record. From every state two fair schedules without further faults, in which members do nothing more,
// end with the group active at one server and no migration under way: one in which everything arrives before time
// passes, and one in which time passes first.
//
// That these would notice is shown by bugs (bugs.go), each of which is caught: in the model, and in the Ready values
// that it stores, as if package migration returned wrong ones or a server forgot some of what they ask for.
//
// # Reading a trace
//
// A violation comes with a shortest way to it. Each step is numbered, with what it ended (-) and what it began (+):
//
//	6 A takes the vote on 1x after decide_by
//	    - A, term 0: the group is frozen, Commits []
//	    - A: 1x is frozen
//	    + A, term 0: the group is active, Commits []
//	    + A: 1x is aborted
//
// "A: 1x is frozen" is A's record of migration 1x; "A has to …" is a row of A's outbox; "… is on its way" is a message.
// Commits are named by who made them. A crash or a loss stands in the line of what it befell. The files in testdata are
// such traces too, of the courses of a hand-over that are worth reading.
package explore
