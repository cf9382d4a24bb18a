package migration

import "errors"

var (
	// ErrEquivocation is returned for a second, different content for one offer, or a decision against an earlier one. The record does
	// not change; the Ready holds the evidence to keep.
	ErrEquivocation = errors.New("migration: contradicts what was signed before")

	// ErrFrozen is returned for what stops a group that is frozen for another migration: the caller gives that one up first.
	ErrFrozen = errors.New("migration: the group is frozen for another migration")
)

// Event is something that happens to a record.
type Event interface {
	// step changes the record and the group in r and adds what else follows; with an error it adds nothing but evidence.
	step(r *Ready) error
}

// Step gives all that follows from an event. g is the group's row in the term that the record is about: at the source the one that the
// migration ends, at the target the one that it begins. An event that comes late or again changes nothing and asks for nothing: the
// outcome to tell is in the record.
func (m Migration) Step(g Group, e Event) (Ready, error) {
	r := Ready{Migration: m, Group: g}
	err := e.step(&r)
	return r, err
}
