package explore

import (
	"fmt"
	"slices"
	"strings"
)

var groupNames = [...]string{"", "active", "frozen", "moved", "staged", "dropped"}

var messageNames = []struct {
	kind messages
	name string
}{
	{offer, "MigrationResponse"}, {initiation, "MigrationInit"}, {content, "MigrationContent"},
	{vote, "TargetMigrationComplete"},
	{refusal, "refusal"}, {confirmation, "MigrationConfirmation"}, {ack, "acknowledgement"}, {abort, "MigrationAbort"},
	{abortAck, "acknowledgement of the abort"},
}

var rowNames = []struct {
	row  rows
	name string
}{
	{rowContent, "send the content"}, {rowOutcome, "send the outcome"}, {rowDeadline, "mind the deadline"},
	{rowAsk, "ask"},
	{rowPurge, "forget the group"},
}

// facts lists the facts of a world.
func (w *world) facts() []string {
	var facts []string
	say := func(format string, args ...any) { facts = append(facts, fmt.Sprintf(format, args...)) }
	for t, g := range w.groups {
		if g.state != groupNone {
			say("%s, term %d: the group is %s, Commits %s", server(t%2), t, groupNames[g.state], g.history)
		}
	}
	for i := range slot(maxSlots) {
		mv := &w.moves[i]
		mv.source.facts(say, i.source(), i)
		mv.target.facts(say, i.target(), i)
		for _, m := range messageNames {
			if mv.net&m.kind != 0 {
				say("%s of %s is on its way", m.name, i)
			}
		}
		for what, is := range map[string]bool{"its member waits": mv.pending, "it can freeze nothing any more": mv.over} {
			if is {
				say("%s: %s", i, what)
			}
		}
	}
	for m, h := range w.members {
		say("%s has Commits %s", memberNames[m], h)
	}
	slices.Sort(facts)
	return facts
}

func (r *record) facts(say func(string, ...any), s server, i slot) {
	if r.state != none {
		say("%s: %s is %s", s, i, states[r.state])
	}
	if r.stored {
		say("%s has the content of %s", s, i)
	}
	for _, row := range rowNames {
		if r.rows&row.row != 0 {
			say("%s has to %s of %s", s, row.name, i)
		}
	}
}

// String lists Commits. A member's own Commit has the member's name, a migration Commit has the migration's name.
func (h history) String() string {
	var names []string
	for n := range h.epoch() {
		if c := h.at(n); c >= firstMove {
			names = append(names, slot(c-firstMove).String())
		} else {
			names = append(names, memberNames[c-1])
		}
	}
	return "[" + strings.Join(names, " ") + "]"
}
