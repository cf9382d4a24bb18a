// Package explore searches everything that can happen to the hand-over of profile, section 6, within bounds, and checks
// in each state what must hold. Neither decisions nor what follows from them are modelled: they are those of package
// migration, whose Step runs in every step of the search, and whose Ready values the search stores as package delivery
// does.
//
// # The model
//
// A world is two servers, A and B, the group, which A hosts in the beginning, two members, x and y, and the network. Each member
// may, for each term, ask for one migration; 1x is the one towards term 1 that x asked for, 2y leads back from B to A. What happens
// is listed in one table (actions.go), each line with the function that does it:
//
//   - A member asks the target, starts with a Commit and an Init, sends the Init again, aborts, learns of an abort, receives the next
//     Commit of the server it holds for current, commits for itself once, or shows the target a confirmation it has received.
//   - A server takes a message, works off a row of its outbox, or minds a deadline. One function (store, in service.go)
//
// says how a
//
//	migration.Ready looks in a world: the record, the group's row, a bit for each kind of outbox row, one for the
//
// stored content.
//   - S asks T before it freezes; T asks S how a staged migration ended, at any time, since T's clock decides nothing.
//   - decide_by passes on S's clock, and the offer expires on T's, at any time. T may refuse any content.
//
// Any message can be late by any time, so they overtake each other at will, and be lost or arrive twice. A server can
// crash at any time: what counts is before it has saved and when it has saved and not sent. A lost compare-and-set is
// no step of its own: the loser writes nothing and starts anew. Servers and members are honest; keys, policy, retention
// and the tree are left out, and of what a Ready asks for the removal of who left meanwhile, and the lineage, which the
// history of a group tells.
//
// # Backups and claims
//
// Two further kinds of faults have searches of their own (faults.go). A server can be backed up at any time, and once be put back to
// that, with all its rows, records and nonces. An operator can reclaim the group where it left, or recover it at either server from
// what a member holds, once; and drop what is staged. Members and operators show what they know: the server takes the steps that follow
// what it has, and stops. A claim is accepted by all; that a server's policy may refuse it is not modelled.
//
// These faults break, by their nature, some of what holds without them, and the invariants leave out just that:
//
//   - Until it is shown what it has forgotten, a restored server accepts Commits in a term that is over, from members who do not know
//     either; it may abort what it had confirmed, and confirm another migration of that term. So for it alone "the source signs one
//     outcome" and the like are not asked.
//   - Until it is shown the claim, the server that the group was claimed from accepts as well, in its earlier term. So one server at most
//     accepts in each term, not in all terms together, and what it accepts is lost to the claim.
//   - A recover goes on from what one member holds, be it behind. Once a server has forgotten, operators are taken to claim only what no
//     server has or waits for, by the longest lineage that there is: what nobody shows cannot be known.
//   - An operator who drops what is staged breaks the promise that the vote was. A confirmation may still revive it, also at a server that was
//     shown a later term while it had dropped it; it is shown again then.
//   - A restored host of the latest term, shown nothing later, goes on from the backup. What it has forgotten of that term is told by
//     handshakes of a later epoch, which are not modelled.
//
// What holds all the same: no server accepts in a term once it was shown a later one, or while its records have its own confirmation
// of one; it signs nothing against what it was shown, and keeps the evidence; no member goes back, or merges but what the server that
// it holds for current has accepted after its own Commits.
//
// From every state fair delivery ends with the group active at one server, in the latest term that anybody knows of, and the other one
// redirects or has nothing. Here members show what they know, and a server that reclaims tells the other one. Where that does not suffice,
// because the only one to know has forgotten or a promise was broken, the operator drops, reclaims or recovers.
//
// # Bounds
//
// Two members, there and back, two crashes, two losses, one duplicate; one Commit of its own for each member. Within them the search
// is complete, breadth first, those states first that need the fewest faults. `make explore` does it: seven million states, eight minutes
// of one core, 1.2 GB. `go test` does one migration, and there and back without faults. The searches with a claim or a restore are of moves to B, with one
// crash and one loss; the one with a claim has Commits of the members' own, and in the one with a restore only one member asks until then:
// 3.2 million states and 0.6, two minutes, 0.6 GB.
//
// A state has no ids, clocks or counters. Worlds that differ in the names of the two members are one. So are those that differ
// in what cannot matter (tidy.go): members receive at once what was accepted; a row's message is on its way as long as the row is
// there; what reaches a record that has ended is taken at once, if the machine, when asked, says that it is without effect; and
// of an offer for an epoch that is over, which can freeze nothing any more, nothing is kept. How many faults it took is no
// part of a state: it is searched again only with faults left that it was not searched with before.
//
// # Invariants
//
// invariants.go lists what holds in every state and of every step: one server at most accepts Commits; the accepted Commits are one
// chain, and members merge no others; what is confirmed is never undone, what is aborted never activates; a migration ends once;
// the source signs one outcome, by its own clock; whatever is signed and sent is in its signer's record. From every state two fair
// schedules without further faults, in which members do nothing more, end with the group active at one server and no migration
// under way: one in which everything arrives before time passes, and one in which time passes first.
//
// That these would notice is shown by bugs (bugs.go), each of which is caught: in the model, and in the Ready values
// that it stores, as if package migration returned wrong ones or a server forgot some of what they ask for.
//
// # Reading a trace
//
// A violation comes with a shortest way to it. Each step is numbered, with what it ended (-) and what it began (+):
//
//	6 A takes the vote on 1x
//	    - 1x: decide_by has passed
//	    - A: 1x is frozen
//	    + A: 1x is aborted
//	    + A, term 0: the group is active, Commits []
//
// "A: 1x is frozen" is A's record of migration 1x; "A has to …" is a row of A's outbox; "… is on its way" is a message. Commits are
// named by who made them. A crash or a loss stands in the line of what it befell. The files in testdata are such traces too, of
// the courses of a hand-over that are worth reading.
package explore
