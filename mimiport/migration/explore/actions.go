package explore

import (
	"strings"
)

// party is the side of a migration that does an action.
type party uint8

const (
	byMember party = iota // or the clock
	bySource
	byTarget
)

// action is a thing that can happen to a migration. In its text {m} is the migration, {x} is the member who asked for
// it, {S} is its source and {T} its target.
type action struct {
	text  string
	by    party
	takes messages // the message that arrives, 0 for none
	can   func(m *model, w *world, i slot) bool
	do    func(m *model, w *world, i slot) messages // changes the world, and returns the messages that it sends
	fair  bool                                      // happens in the end, even if members do nothing
	clock bool                                      // happens as time passes
	sends bool                                      // only sends the message of a row
}

// arrives says whether a message of a kind is on its way. sourceHas and targetHas say whether a server has a row to
// work off.
func arrives(kind messages) func(*model, *world, slot) bool {
	return func(_ *model, w *world, i slot) bool { return w.moves[i].net&kind != 0 }
}

func sourceHas(row rows) func(*model, *world, slot) bool {
	return func(_ *model, w *world, i slot) bool { return w.moves[i].source.rows&row != 0 }
}

func targetHas(row rows) func(*model, *world, slot) bool {
	return func(_ *model, w *world, i slot) bool { return w.moves[i].target.rows&row != 0 }
}

// once is true for one slot of each member. Actions of a member that belong to no migration happen in that slot only.
func once(i slot) bool { return i.term() == 1 }

// actions lists all actions. A fair schedule prefers the fair ones in the order of this list: messages, rows, clocks.
var actions = []action{
	{text: "{S} takes the Init of {m}", by: bySource, takes: initiation, can: arrives(initiation), do: (*model).initiate,
		fair: true},
	{text: "{T} takes the content of {m}", by: byTarget, takes: content, can: arrives(content), do: (*model).takeContent,
		fair: true},
	{text: "{S} takes the vote on {m}", by: bySource, takes: vote, can: arrives(vote), do: (*model).takeVote, fair: true},
	{text: "{S} takes the refusal of {m}", by: bySource, takes: refusal, can: arrives(refusal), do: (*model).giveUp,
		fair: true},
	{text: "{T} takes the confirmation of {m}", by: byTarget, takes: confirmation, can: arrives(confirmation),
		do: (*model).confirm, fair: true},
	{text: "{S} takes the acknowledgement of {m}", by: bySource, takes: ack, can: arrives(ack), do: (*model).takeAck,
		fair: true},
	{text: "{T} takes the abort of {m}", by: byTarget, takes: abort, can: arrives(abort), do: (*model).takeAbort,
		fair: true},
	{text: "{S} takes the acknowledgement of the abort of {m}", by: bySource, takes: abortAck, can: arrives(abortAck),
		do: (*model).takeAbortAck, fair: true},

	{text: "{S} hands out the outcome of {m}", by: bySource, can: sourceHas(rowOutcome), do: (*model).sendOutcome,
		fair: true, sends: true},
	{text: "{T} asks {S} about {m}", by: byTarget, can: targetHas(rowAsk), do: (*model).ask, fair: true},
	{text: "{S} hands out the content of {m}", by: bySource, can: sourceHas(rowContent), do: (*model).sendContent,
		fair: true, sends: true},

	{text: "{S} minds decide_by of {m}", clock: true, by: bySource, fair: true, do: (*model).sourceDeadline,
		can: sourceHas(rowDeadline)},
	{text: "{T} minds the expiry of {m}", clock: true, by: byTarget, fair: true, do: (*model).targetDeadline,
		can: targetHas(rowDeadline)},

	{text: "{S} takes the vote on {m} after decide_by", clock: true, by: bySource, takes: vote, do: (*model).takeLateVote,
		can: func(_ *model, w *world, i slot) bool {
			return w.moves[i].net&vote != 0 && w.moves[i].source.state == frozen
		}},
	{text: "{T} refuses the content of {m}", by: byTarget, takes: content, do: (*model).refuse,
		can: func(_ *model, w *world, i slot) bool {
			return w.moves[i].net&content != 0 && w.moves[i].target.state == offered
		}},
	{text: "{x} asks {T} for {m}", by: byTarget, can: (*model).mayRequest, do: (*model).request},
	{text: "{x} starts {m}", takes: offer, can: arrives(offer), do: (*model).start},
	{text: "{x} sends the Init of {m} again", can: pending, do: func(*model, *world, slot) messages { return initiation }},
	{text: "{x} learns that {m} was aborted",
		can: func(_ *model, w *world, i slot) bool { return w.moves[i].pending && w.moves[i].source.holds&abort != 0 },
		do:  func(_ *model, w *world, i slot) messages { w.moves[i].pending = false; return 0 }},
	{text: "{x} aborts {m}", by: bySource, do: (*model).giveUp,
		can: func(_ *model, w *world, i slot) bool { return w.moves[i].source.state != none }},
	{text: "{x} receives a Commit", can: (*model).mayReceive, do: (*model).receive},
	{text: "{x} commits", by: bySource, can: (*model).mayCommit, do: (*model).commit},
	{text: "a member shows {T} a confirmation for {m}", by: byTarget, can: (*model).mayShow, do: (*model).show},
}

func pending(_ *model, w *world, i slot) bool { return w.moves[i].pending }

// name is the action's text for one migration.
func (a *action) name(i slot) string {
	return strings.NewReplacer("{m}", i.String(), "{x}", memberNames[i.member()], "{S}", i.source().String(), "{T}",
		i.target().String()).Replace(a.text)
}

var memberNames = [members]string{"x", "y"}

func (s server) String() string { return string("AB"[s]) }

// String names the term that a migration leads to, and the member who asked for it.
func (i slot) String() string {
	return string('0'+rune(i.term())) + memberNames[i.member()]
}
