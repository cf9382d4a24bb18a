// Package explore searches everything that can happen to the hand-over of profile, section 6, within bounds. It checks
// the invariants in each state. The search does not model decisions or their consequences: it runs Step of package
// migration, and stores the Ready as package delivery does. Package hosts, below, searches for the server that has a
// group when servers claim it, forget or lie.
//
// # The model
//
// A world has two servers, A and B, a group, two members, x and y, and a network. A hosts the group in the beginning.
// Each member may ask for one migration in each term. 1x is the migration to term 1 that x asked for. 2y is the
// migration to term 2 that y asked for: it leads back from B to A. One table (actions.go) lists all actions, each with
// the function that does it:
//
//   - A member asks the target, starts with a Commit and an Init, sends the Init again, aborts, or learns of an abort.
//     It receives the next Commit of the server that it takes for the current one, or makes one Commit of its own. It
//     shows the target a confirmation that it has received.
//   - A server takes a message, works off a row of its outbox, or minds a deadline. One function (store, in
//     service.go) stores a migration.Ready in a world: the record, the group's row, a bit for each kind of outbox row,
//     and a bit for the stored content.
//   - S asks T before S freezes. T may ask S at any time how a staged migration ended: T's clock decides nothing.
//   - At any time S minds decide_by, or takes a vote that comes after decide_by. At any time T minds the expiry of an
//     offer. T may refuse any content.
//
// Any message can be late, overtake another message, be lost, or arrive twice. A server can crash at any time: before
// it has saved, or after it has saved and before it sends. A lost compare-and-set is no step of its own: the loser
// writes nothing and starts anew. Servers and members are honest. The model leaves out keys, policy, retention and the
// tree. It also leaves out two parts of a Ready: the removal of users who left meanwhile, and the lineage. The history
// of a group tells its lineage.
//
// # Bounds
//
// There are two members. The group may move to B and back. Each member makes one Commit of its own. There may be any
// number of crashes, losses and repetitions. A state does not count them: a bound on them would save few states, and
// the search would visit each state again for each count. Within the bounds the search is complete, breadth first.
// `make explore` does it: 2,308,017 states, at most 30 steps deep, in 17 minutes on two busy cores. `go test` searches
// one migration. It also searches a move to B and back where only one member asks for each move.
//
// A state has no ids, clocks or counters. A deadline passes without an event of its own. Only the server of the
// deadline notices it, and only when the server checks the deadline or takes a message. The deadline may therefore pass
// at that moment: S checks decide_by or takes a late vote, T checks the expiry or refuses a late content. Two worlds
// that differ only in the names of the two members are one state. Two worlds that differ only in things without effect
// are one state, too (tidy.go). Members receive accepted Commits at once. The message of a row is on its way as long as
// the row exists. A record that has ended takes a message at once if the machine says that the message has no effect.
// The search keeps nothing of an offer for a past epoch, because that offer can freeze nothing any more.
//
// # Invariants
//
// invariants.go lists the invariants of every state and of every step. At most one server accepts Commits. The accepted
// Commits are one chain, and members merge no others. Nothing undoes a confirmed migration. An aborted migration never
// activates. A migration ends once. The source signs one outcome, by its own clock. Each message that a server has
// signed and sent is in the server's record. The search also follows two fair schedules from every state. They have no
// further faults, and members do nothing more. In one schedule every message arrives before time passes, in the other
// all time passes first. Each must end with the group active at one server and no migration under way.
//
// Bugs (bugs.go) show that the invariants notice mistakes: an invariant catches each bug. Some bugs are in the model.
// The others are in the Ready values that the model stores, as if package migration returned a wrong one or a server
// forgot part of one.
//
// # Reading a trace
//
// The search reports a violation with a shortest way to it. Each step has a number, the facts that it ended (-) and the
// facts that it began (+):
//
//	6 A takes the vote on 1x after decide_by
//	    - A, term 0: the group is frozen, Commits []
//	    - A: 1x is frozen
//	    + A, term 0: the group is active, Commits []
//	    + A: 1x is aborted
//
// "A: 1x is frozen" is A's record of migration 1x; "A has to …" is a row of A's outbox; "… is on its way" is a message.
// A Commit has the name of the member or migration that made it. A crash or a loss stands in the line of the action
// that it hits. The files in testdata are such traces, too: they show the main courses of a hand-over.
package explore
