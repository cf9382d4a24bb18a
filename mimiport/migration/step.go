package migration

import (
	"errors"
	"time"
)

var (
	// ErrEquivocation means that S sent a second, different content for one offer, or a decision against its earlier
	// one. The record does not change. The Ready holds the evidence to keep.
	ErrEquivocation = errors.New("migration: contradicts what was signed before")

	// ErrFrozen means that the event would stop a group that is frozen for another migration. The caller gives up that
	// migration first.
	ErrFrozen = errors.New("migration: the group is frozen for another migration")
)

// Event is a thing that happens to a record.
type Event interface {
	// step changes the record and the group in r and adds the other consequences. If step returns an error, it adds
	// only evidence.
	step(r Ready) (Ready, error)
}

// Step returns all consequences of an event. g is the group's row in the term of the record. At the source that is the
// term that the migration ends. At the target it is the term that the migration begins. An event that comes late or
// again changes nothing and asks for nothing: the caller reads the outcome from the record.
func (m Migration) Step(g Group, e Event) (Ready, error) {
	return e.step(Ready{Migration: m, Group: g})
}

// Deadline ends a record that has no time Left: S's decide_by or the expiry of T's offer has come. It changes no other
// record.
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

// Left is how long a record still waits when the clock shows at. S waits for the vote, T for the content. Left is 0 for
// a record that waits no more. Left is also 0 if at is before the record was created: the clock has gone back and might
// do so again. Until the server has written the end of the record, the vote or the content still counts.
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
