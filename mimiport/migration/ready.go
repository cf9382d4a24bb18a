package migration

import "time"

// Ready is all that follows from an event: plain values, in the manner of etcd-io/raft. The caller signs first as Sign
// says, then writes everything else in one transaction. Nothing leaves the server before that transaction is durable:
// the rows send it.
type Ready struct {
	Migration Migration // the record after the event; its State or Refused is another exactly if the record has changed
	Group     Group     // the group's row after the event, equal to the one before if it has not changed

	Sign Signature // the message to sign and to put into the record

	Done []RowKind // rows of the migration to delete, if they are there
	Put  []Row     // rows to insert

	KeepContent []byte // S: the MigrationContent to store, nil for none
	DropContent bool   // S: delete it, once the Commit in it is accepted where Accept says so

	// S: append the migration Commit of the stored content to the log, and fan it out.
	Accept bool
	// The group begins here in the row's term: its log and trees replace all that an earlier migration left in that
	// row.
	Begin bool
	// T: the lineage of the group grows by the step that this migration is.
	Extend bool
	// The encoded lineage that was shown, nil for none: the group's becomes that, up to the term after its own.
	Follow []byte
	// Delete the log and the trees of the group.
	Forget bool

	Evidence []Evidence // to keep for people
}

// Signature says which message a step has signed, as the server that keeps the record.
type Signature uint8

// The messages that steps sign, for fields of the record.
const (
	SignNothing      Signature = iota
	SignComplete               // T: the vote, in both forms
	SignConfirmation           // S: the decision
	SignAbort                  // S
)

// Row is something to do later.
type Row struct {
	Kind RowKind
	Due  time.Time // zero: as soon as can be; a purge or an end when the retention of what it deletes is over
}

// RowKind is what a row asks for.
type RowKind string

// The rows that migrations ask for.
const (
	RowContent      RowKind = "content"      // S: hand the content to the target
	RowConfirmation RowKind = "confirmation" // S: hand the decision to the target
	RowAbort        RowKind = "abort"        // S: hand the signed abort to the target
	RowDeadline     RowKind = "deadline"     // the offer expires, or decide_by has come
	RowAsk          RowKind = "ask"          // T: ask the source how a staged migration ended
	RowPurge        RowKind = "purge"        // forget the state of a group that has moved or was dropped
	RowEnd          RowKind = "end"          // forget the state of a group that was closed
	RowExpel        RowKind = "expel"        // propose to remove members who are not in the room
	RowLineage      RowKind = "lineage"      // S: show the target that the group was reclaimed from it
)

// Evidence is something that another server has signed and should not have, or that this server has and does not
// remember.
type Evidence struct {
	Kind    EvidenceKind
	Message Signed // the signed message, or an encoded lineage
}

// EvidenceKind says what the evidence shows.
type EvidenceKind string

// The evidence that steps ask to keep.
const (
	EvidenceSecondContent EvidenceKind = "second-content" // a source sent two contents for one offer
	EvidenceBothOutcomes  EvidenceKind = "both-outcomes"  // a source signed the confirmation and the abort
	EvidenceOwnForgotten  EvidenceKind = "own-forgotten"  // this server signed what it does not remember
	EvidenceHigherTerm    EvidenceKind = "higher-term"    // the group is elsewhere in a later term
	EvidenceContested     EvidenceKind = "contested"      // a server claims the group without support
	EvidenceDisplaced     EvidenceKind = "displaced"      // another group was here by the id of this one
)

func (r *Ready) put(kind RowKind, due time.Time) { r.Put = append(r.Put, Row{kind, due}) }

func (r *Ready) keep(kind EvidenceKind, message Signed) {
	r.Evidence = append(r.Evidence, Evidence{kind, message})
}
