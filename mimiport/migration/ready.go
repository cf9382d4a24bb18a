package migration

import "time"

// Ready has all consequences of an event as plain values, in the manner of etcd-io/raft. The caller first signs as Sign
// says. Then the caller writes everything else in one transaction. The server sends nothing before that transaction is
// durable: the workers of the rows do the sending.
type Ready struct {
	Migration Migration // the record after the event; State or Refused differs if and only if the record has changed
	Group     Group     // the group's row after the event, equal to the row before if it has not changed

	Sign Signature // the message to sign and to put into the record

	Done []RowKind // rows of the migration to delete, if they exist
	Put  []Row     // rows to insert

	KeepContent []byte // S: the MigrationContent to store, nil for none
	DropContent bool   // S: delete the content, after accepting its Commit if Accept says so

	// S: append the migration Commit of the stored content to the log, and fan it out.
	Accept bool
	// The group begins here in the row's term. The new log and trees replace all data that an earlier migration left in
	// that row.
	Begin bool
	// T: append the step of this migration to the group's lineage.
	Extend bool
	// The shown lineage, encoded, or nil. The caller puts it in the place of the group's lineage, up to the term after
	// the group's own.
	Follow []byte
	// Delete the log and the trees of the group.
	Forget bool

	Evidence []Evidence // to keep for people
}

// Signature names the message that the server with the record must sign.
type Signature uint8

// The messages that steps sign, for fields of the record.
const (
	SignNothing      Signature = iota
	SignComplete               // T: the vote, in both forms
	SignConfirmation           // S: the decision
	SignAbort                  // S
)

// Row is a task for later.
type Row struct {
	Kind RowKind
	Due  time.Time // zero: as soon as possible, but a purge or an end: at the end of retention
}

// RowKind is the kind of work of a row.
type RowKind string

// The rows that migrations ask for.
const (
	RowContent      RowKind = "content"      // S: send the content to the target
	RowConfirmation RowKind = "confirmation" // S: send the decision to the target
	RowAbort        RowKind = "abort"        // S: send the signed abort to the target
	RowDeadline     RowKind = "deadline"     // the offer expires, or decide_by has come
	RowAsk          RowKind = "ask"          // T: ask the source how a staged migration ended
	RowPurge        RowKind = "purge"        // delete the state of a group that has moved or was dropped
	RowEnd          RowKind = "end"          // delete the state of a group that was closed
	RowExpel        RowKind = "expel"        // propose to remove members who are not in the room
	RowLineage      RowKind = "lineage"      // S: show the target that the group was reclaimed from it
)

// Evidence is a message that another server should not have signed, or that this server signed and forgot.
type Evidence struct {
	Kind    EvidenceKind
	Message Signed // the signed message, or an encoded lineage
}

// EvidenceKind says what the evidence shows.
type EvidenceKind string

// The evidence that steps ask to keep.
const (
	EvidenceSecondContent EvidenceKind = "second-content" // a source signed two contents for one offer
	EvidenceBothOutcomes  EvidenceKind = "both-outcomes"  // a source signed the confirmation and the abort
	EvidenceOwnForgotten  EvidenceKind = "own-forgotten"  // this server has forgotten its own signature
	EvidenceHigherTerm    EvidenceKind = "higher-term"    // the group is elsewhere in a later term
	EvidenceContested     EvidenceKind = "contested"      // a server claims the group without support
	EvidenceDisplaced     EvidenceKind = "displaced"      // another group had the id of this group here
)

func (r *Ready) put(kind RowKind, due time.Time) { r.Put = append(r.Put, Row{kind, due}) }

func (r *Ready) keep(kind EvidenceKind, message Signed) {
	r.Evidence = append(r.Evidence, Evidence{kind, message})
}
