package explore

import (
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// Bug is a mistake that a test puts into the model: an invariant must catch it. The empty Bug is no mistake.
type Bug string

// The bugs.
const (
	SendsBeforeSaving Bug = "a server sends before it saves"
	NoCompareAndSet   Bug = "a server writes over what changed since it read"
	SplitsTransaction Bug = "a server saves its record and the group in two transactions"
	RowsInMemory      Bug = "a server keeps in memory what it has to do"
	AbortsBySilence   Bug = "the target takes silence for an abort"
	ExpiresStaged     Bug = "the target lets the offer expire after its vote"
	ReusesNonce       Bug = "the target uses one nonce for all its offers"
	IgnoresNonce      Bug = "the target takes a confirmation for another nonce"
	UsesNonceTwice    Bug = "the target takes content for an offer that has ended"
	ActivatesOnImport Bug = "the target activates when it has the content"
	AcksEarly         Bug = "the target acknowledges before it has activated"
	CountsLateVote    Bug = "the source counts a vote after decide_by"
	FreezesAgain      Bug = "the source freezes again for an Init that has ended"
	UndoesDecision    Bug = "the source aborts what it has decided"
	MergesEarly       Bug = "a member merges its Commit when the source freezes"
)

// Bugs in the consequences of a step.
const (
	KeepsContentRow Bug = "a content that waits holds back the outcome"
	KeepsContent    Bug = "the source keeps the content of what has ended"
	LosesContent    Bug = "the source does not store the content that it is to send"
	StaysAborted    Bug = "an aborted migration leaves the group frozen"
	StaysHere       Bug = "a decided migration leaves the group frozen"
	StaysActive     Bug = "an Init does not freeze the group"
	HidesDecision   Bug = "the source has nothing to hand out its confirmation"
	SignsNothing    Bug = "the source decides and signs nothing"
	LosesCommit     Bug = "the migration Commit does not come into the source's log"
	PurgesNothing   Bug = "the source keeps for ever what has moved away"
	HoardsDropped   Bug = "the target keeps for ever what was dropped"
	OffersForEver   Bug = "nothing ends an offer that nobody takes up"
	StaysStaged     Bug = "what is dropped stays staged"
	NeverActivates  Bug = "what is confirmed stays staged"
)

// spoils are the bugs that change the Ready that the machine has returned. They stand for a machine that returns a
// wrong Ready, or for a service that does not do all that a Ready says.
var spoils = map[Bug]spoil{
	KeepsContentRow: func(_ *migration.Migration, r *migration.Ready) {
		r.Done = slices.DeleteFunc(r.Done, func(k migration.RowKind) bool { return k == migration.RowContent })
	},
	KeepsContent:   func(_ *migration.Migration, r *migration.Ready) { r.DropContent = false },
	LosesContent:   func(_ *migration.Migration, r *migration.Ready) { r.KeepContent = nil },
	StaysAborted:   leaves(migration.Aborted, migration.GroupFrozen),
	StaysHere:      leaves(migration.Decided, migration.GroupFrozen),
	StaysActive:    leaves(migration.Frozen, migration.GroupActive),
	HidesDecision:  putsNo(migration.RowConfirmation),
	SignsNothing:   func(_ *migration.Migration, r *migration.Ready) { r.Sign = migration.SignNothing },
	LosesCommit:    func(_ *migration.Migration, r *migration.Ready) { r.Accept = false },
	PurgesNothing:  unless(migration.Target, putsNo(migration.RowPurge)),
	HoardsDropped:  unless(migration.Source, putsNo(migration.RowPurge)),
	OffersForEver:  unless(migration.Source, putsNo(migration.RowDeadline)),
	StaysStaged:    leaves(migration.Dropped, migration.GroupStaged),
	NeverActivates: leaves(migration.Active, migration.GroupStaged),
}

// spoil changes the Ready of a step. before is the record before the step.
type spoil func(before *migration.Migration, r *migration.Ready)

// putsNo deletes the rows of a kind from a Ready.
func putsNo(kind migration.RowKind) spoil {
	return func(_ *migration.Migration, r *migration.Ready) {
		r.Put = slices.DeleteFunc(r.Put, func(row migration.Row) bool { return row.Kind == kind })
	}
}

// leaves gives the group another state at the step by which its record enters the state at.
func leaves(at migration.State, state migration.GroupState) spoil {
	return func(before *migration.Migration, r *migration.Ready) {
		if before.State != at && r.Migration.State == at && r.Group.Migration == r.Migration.ID {
			r.Group.State = state
		}
	}
}

// unless spoils only records that do not have the role.
func unless(role migration.Role, do spoil) spoil {
	return func(before *migration.Migration, r *migration.Ready) {
		if r.Migration.Role != role {
			do(before, r)
		}
	}
}
