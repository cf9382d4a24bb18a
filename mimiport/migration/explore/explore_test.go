package explore

import (
	"flag"
	"testing"
	"time"
)

var full = flag.Bool("full", false, "explore within the stated bounds, for minutes, instead of smaller ones")

// stated are the bounds in the package comment.
var stated = Bounds{Terms: 2}

// TestExplore searches the model without bugs to the end.
func TestExplore(t *testing.T) {
	searches := []Bounds{
		{Terms: 1},
		{Terms: 2, NoCommits: true, Alone: true},
	}
	if *full {
		searches = []Bounds{stated}
	}
	for _, b := range searches {
		start := time.Now()
		r := Explore(b, "")
		t.Logf("%+v: %d states, at most %d steps deep, %d left to go on from, settled in at most %d fair steps, %.0f s",
			b, r.States, r.Depth, r.Left, r.Fair, time.Since(start).Seconds())
		if r.Violation != "" || r.Left != 0 {
			t.Errorf("%s\n%s", r.Violation, r.Trace)
		}
	}
}

// TestBugs: an invariant catches each bug.
func TestBugs(t *testing.T) {
	short := Bounds{Terms: 1, NoCommits: true}
	commits := Bounds{Terms: 1}
	// A member shows the confirmation of the first move at the third move, which has the same source and target.
	thereAgain := Bounds{Terms: 3, NoCommits: true, Alone: true}
	for _, c := range []struct {
		bug     Bug
		bounds  Bounds
		catches string
	}{
		{SendsBeforeSaving, short, "what is signed was saved before"},
		{NoCompareAndSet, short, "what is signed was saved before"},
		{SplitsTransaction, short, "the accepted Commits are one chain"},
		{RowsInMemory, short, "fair delivery ends with the group active at one server"},
		{AbortsBySilence, short, "a vote is a promise: what is confirmed stays at the target until it activates"},
		{ExpiresStaged, short, "a vote is a promise: what is confirmed stays at the target until it activates"},
		{ReusesNonce, thereAgain, "the accepted Commits are one chain"},
		{IgnoresNonce, thereAgain, "the accepted Commits are one chain"},
		{UsesNonceTwice, short, "a migration ends once"},
		{ActivatesOnImport, short, "the accepted Commits are one chain"},
		{AcksEarly, short, "the target acknowledges what it has activated"},
		{CountsLateVote, short, "the source's clock decides: no vote counts from decide_by on"},
		{FreezesAgain, short, "a migration ends once"},
		{UndoesDecision, short, "the source signs one outcome"},
		{MergesEarly, short, "members merge accepted Commits only"},

		{KeepsContentRow, short, "nothing holds back an outcome"},
		{KeepsContent, short, "the source has the content to send while it waits for the vote, no longer"},
		{LosesContent, short, "the source has the content to send while it waits for the vote, no longer"},
		{StaysAborted, short, "fair delivery ends with the group active at one server"},
		{StaysHere, short, "the accepted Commits are one chain"},
		{StaysActive, commits, "members merge accepted Commits only"},
		{HidesDecision, short, "fair delivery ends with the group active at one server"},
		{SignsNothing, short, "what is signed was saved before"},
		{LosesCommit, short, "the accepted Commits are one chain"},
		{PurgesNothing, short, "what has moved away or was dropped is purged in the end"},
		{HoardsDropped, short, "what has moved away or was dropped is purged in the end"},
		{OffersForEver, short, "fair delivery ends with the group active at one server"},
		{StaysStaged, short, "fair delivery ends with the group active at one server"},
		{NeverActivates, short, "fair delivery ends with the group active at one server"},
	} {
		t.Run(string(c.bug), func(t *testing.T) {
			t.Parallel()
			r := Explore(c.bounds, c.bug)
			if r.Violation != c.catches {
				t.Errorf("%q is caught by %q", c.bug, r.Violation)
			}
			t.Logf("%s, after %d states:\n%s", r.Violation, r.States, r.Trace)
		})
	}
}

// TestKeys: decode returns the world that a key was made from, or its mirror image. A world and its mirror image have
// one key.
func TestKeys(t *testing.T) {
	for _, b := range []Bounds{{Terms: 2}, {Terms: 1}} {
		testKeys(t, &model{bounds: b})
	}
}

func testKeys(t *testing.T, m *model) {
	worlds := []world{*first()}
	for n := 0; n < len(worlds) && n < 3000; n++ {
		w := worlds[n]
		mirrored := w.mirror()
		k := w.key(m.bounds)
		if got := *decode(&k, m.bounds); got != w && got != mirrored {
			t.Fatalf("%+v comes back as %+v", w, got)
		}
		if mirrored.key(m.bounds) != k || mirrored.mirror() != w {
			t.Fatalf("the mirror image of %+v is %+v", w, mirrored)
		}
		m.events(&w, func(_ event, next *world) { worlds = append(worlds, *next) })
	}
}
