package migration

import (
	"errors"
	"time"
)

var (
	// ErrEquivocation is returned for a second, different content for one offer, or a decision against an earlier one.
	// The record does not change; the Ready holds the evidence to keep.
	ErrEquivocation = errors.New("migration: contradicts what was signed before")

	// ErrFrozen is returned for what stops a group that is frozen for another migration: the caller gives that one up
	// first.
	ErrFrozen = errors.New("migration: the group is frozen for another migration")
)

// Event is something that happens to a record.
type Event interface {
	// step changes the record and the group in r and adds what else follows; with an error it adds nothing but
	// evidence.
	step(r Ready) (Ready, error)
}

// Step gives all that follows from an event. g is the group's row in the term that the record is about: at the source
// the one that the migration ends, at the target the one that it begins. An event that comes late or again changes
// nothing and asks for nothing: the outcome to tell is in the record.
func (m Migration) Step(g Group, e Event) (Ready, error) {
	return e.step(Ready{Migration: m, Group: g})
}

// Deadline ends a record that has nothing Left to wait for: S's decide_by or the expiry of T's offer has come. Another
// record does not change.
type Deadline struct{ At time.Time }

func (e Deadline) step(r Ready) (Ready, error) {
	m := &r.Migration
	if m.Left(e.At) > 0 {
		return r, nil
	}
	switch m.State {
	case Frozen:
		r.abort("no vote before decide_by")
	case Offered:
		r.drop(Signed{}, "the offer expired")
	}
	return r, nil
}

// Left is how long a record waits yet, by a clock that is at a time: S for the vote, T for the content; 0 for what
// waits no more. Nor is anything left by a clock from before the record: it has gone back, and might do so again. Until
// the end has been written, a vote or a content counts all the same.
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
