package migration

import (
	"bytes"
	"errors"
	"time"
)

// Action is something that a transition asks for. The caller does all actions of a step in the one transaction that
// stores the new record; what must be sent becomes rows of the outbox.
type Action uint8

// The actions.
const (
	SendContent      Action = iota + 1 // S: hand the stored content to T
	SetDeadline                        // S: come back at DecideBy; T: come back at ExpiresAt
	Freeze                             // S: the group takes no handshakes
	MoveGroup                          // S: accept the migration Commit into the log, fan it out, redirect
	Unfreeze                           // S: the group is as it was; the Commit is dropped
	StopGroup                          // S: the group redirects; its Commit is lost
	SendConfirmation                   // S: hand the decision to T
	SendAbort                          // S: hand the signed abort to T
	Stage                              // T: keep the content and what was derived from it
	AskSource                          // T: from DecideBy on, ask S how it ended
	ActivateGroup                      // T: the group is live here
	Discard                            // T: hide what was staged; it is kept through retention
)

// ErrEquivocation is returned for a second, different content for one offer, or a decision against an earlier one. The
// record does not change; the caller keeps the evidence.
var ErrEquivocation = errors.New("migration: contradicts what was signed before")

// Event is something that happens to a record.
type Event interface {
	step(Migration) (Migration, []Action, error)
}

// Step gives the record after an event, and what to do. An event that comes late or again changes nothing and asks for
// nothing: the outcome to tell is in the record.
func (m Migration) Step(e Event) (Migration, []Action, error) { return e.step(m) }

// Init begins the source's record: a valid MigrationInit with its Commit has been accepted (profile, section 6). The
// receiver holds everything but the state.
type Init struct{}

func (Init) step(m Migration) (Migration, []Action, error) {
	m.Role, m.State = Source, Frozen
	return m, []Action{Freeze, SetDeadline, SendContent}, nil
}

// Vote is T's verified TargetMigrationComplete. Confirmation and Abort are S's two possible answers, signed beforehand;
// only the one in the returned record may leave. At is S's clock: it alone decides.
type Vote struct {
	Complete     Signed
	ContentHash  []byte
	Confirmation Signed
	Abort        Signed
	At           time.Time
}

func (e Vote) step(m Migration) (Migration, []Action, error) {
	if m.State != Frozen || !bytes.Equal(e.ContentHash, m.ContentHash) {
		return m, nil, nil
	}
	if !e.At.Before(m.DecideBy) {
		return m.abort(e.Abort, "the vote came after decide_by")
	}
	m.State, m.Complete, m.Confirmation = Decided, e.Complete, e.Confirmation
	return m, []Action{MoveGroup, SendConfirmation}, nil
}

// Deadline ends a record that has nothing Left to wait for: S's decide_by or the expiry of T's offer has come. Another record does not change.
type Deadline struct {
	At    time.Time
	Abort Signed // S only
}

func (e Deadline) step(m Migration) (Migration, []Action, error) {
	if m.Left(e.At) > 0 {
		return m, nil, nil
	}
	switch m.State {
	case Frozen:
		return m.abort(e.Abort, "no vote before decide_by")
	case Offered:
		m.State, m.Reason = Dropped, "the offer expired"
	}
	return m, nil, nil
}

// Left is how long a record waits yet, by a clock that is at a time: S for the vote, T for the content; 0 for what waits no more. Nor
// is anything left by a clock from before the record: it has gone back, and might do so again. Until the end has been written, a vote
// or a content counts all the same.
func (m Migration) Left(at time.Time) time.Duration {
	deadline := m.ExpiresAt
	switch m.State {
	case Frozen:
		deadline = m.DecideBy
	case Offered:
	default:
		return 0
	}
	if at.Before(m.CreatedAt) {
		return 0
	}
	return max(deadline.Sub(at), 0)
}

// GiveUp aborts before the decision: T refused for good, policy changed, or the client asked.
type GiveUp struct {
	Abort  Signed
	Reason string
}

func (e GiveUp) step(m Migration) (Migration, []Action, error) {
	if m.State != Frozen {
		return m, nil, nil
	}
	return m.abort(e.Abort, e.Reason)
}

func (m Migration) abort(signed Signed, reason string) (Migration, []Action, error) {
	m.State, m.Abort, m.Reason = Aborted, signed, reason
	return m, []Action{Unfreeze, SendAbort}, nil
}

// Recall is S's own verified confirmation, shown to S: it has signed what it does not remember, as after the restore of a
// backup. Its signature beats its database, its own abort included (profile, section 3).
type Recall struct{ Confirmation Signed }

func (e Recall) step(m Migration) (Migration, []Action, error) {
	switch m.State {
	case Frozen:
		m.State, m.Confirmation = Decided, e.Confirmation
		return m, []Action{MoveGroup, SendConfirmation}, nil
	case Aborted:
		m.State, m.Confirmation = Moved, e.Confirmation
		return m, []Action{StopGroup}, nil
	}
	return m, nil, nil
}

// Ack is T's word that it has the confirmation.
type Ack struct{}

func (Ack) step(m Migration) (Migration, []Action, error) {
	if m.State == Decided {
		m.State = Moved
	}
	return m, nil, nil
}

// Offer begins the target's record: a MigrationResponse has been signed.
type Offer struct{}

func (Offer) step(m Migration) (Migration, []Action, error) {
	m.Role, m.State = Target, Offered
	return m, []Action{SetDeadline}, nil
}

// Content is a MigrationContent that T has verified in every respect. Complete is T's vote on it, signed beforehand.
type Content struct {
	ContentHash []byte
	CommitHash  []byte
	RoomID      string
	Term        uint64
	DecideBy    time.Time
	Complete    Signed
	At          time.Time
}

func (e Content) step(m Migration) (Migration, []Action, error) {
	if m.State == Offered && !e.At.Before(m.ExpiresAt) {
		m.State, m.Reason = Dropped, "the offer expired"
		return m, nil, nil
	}
	if m.State != Offered {
		if m.ContentHash != nil && !bytes.Equal(e.ContentHash, m.ContentHash) {
			return m, nil, ErrEquivocation
		}
		return m, nil, nil
	}
	m.State = Staged
	m.ContentHash, m.CommitHash, m.RoomID, m.Term, m.DecideBy = e.ContentHash, e.CommitHash, e.RoomID, e.Term, e.DecideBy
	m.Complete = e.Complete
	return m, []Action{Stage, AskSource}, nil
}

// Confirm is S's verified MigrationConfirmation, from whomever T has it. A vote is a promise: T activates whatever has changed
// since, even an abort: if S signed both, the confirmation wins (profile, section 6), as long as what was staged is kept.
type Confirm struct {
	Confirmation Signed
	Kept         bool // what was staged is still here
}

func (e Confirm) step(m Migration) (Migration, []Action, error) {
	switch {
	case m.State == Staged, m.State == Dropped && e.Kept:
		m.State, m.Confirmation = Active, e.Confirmation
		return m, []Action{ActivateGroup}, nil
	case m.State == Dropped && m.Abort.Message != nil:
		return m, nil, ErrEquivocation
	}
	return m, nil, nil
}

// SourceAbort is S's verified MigrationAbort.
type SourceAbort struct{ Abort Signed }

func (e SourceAbort) step(m Migration) (Migration, []Action, error) {
	if m.State == Active {
		return m, nil, ErrEquivocation // the confirmation wins
	}
	return m.drop(e.Abort, "aborted by the source")
}

// Superseded is a verified lineage in which S's step of this term is another migration.
type Superseded struct{}

func (Superseded) step(m Migration) (Migration, []Action, error) {
	return m.drop(Signed{}, "the group went elsewhere in that term")
}

// OperatorDrop is an operator's decision to wait no longer for S. It breaks the promise that a vote is: should S have decided, what is
// staged is kept through retention for the confirmation.
type OperatorDrop struct{}

func (OperatorDrop) step(m Migration) (Migration, []Action, error) {
	return m.drop(Signed{}, "dropped by an operator")
}

func (m Migration) drop(abort Signed, reason string) (Migration, []Action, error) {
	switch m.State {
	case Offered:
		m.State, m.Abort, m.Reason = Dropped, abort, reason
	case Staged:
		m.State, m.Abort, m.Reason = Dropped, abort, reason
		return m, []Action{Discard}, nil
	}
	return m, nil, nil
}
