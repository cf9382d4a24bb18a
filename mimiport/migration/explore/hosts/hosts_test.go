package hosts

import (
	"flag"
	"testing"
	"time"
)

var full = flag.Bool("full", false, "search all scenarios to their end, for minutes, instead of smaller ones")

// scenario finds a scenario by its name.
func scenario(t *testing.T, name string) Scenario {
	for _, sc := range Scenarios {
		if sc.Name == name {
			return sc
		}
	}
	t.Fatalf("there is no scenario %q", name)
	return Scenario{}
}

// small is a scenario without Commits, outages and drops by operators.
func small(sc Scenario) Scenario {
	sc.Commits, sc.Drops, sc.Outages = false, false, false
	return sc
}

// TestExplore searches the scenarios without bugs to the end. Without -full it searches only some of them, and makes
// some of these small.
func TestExplore(t *testing.T) {
	searched := Scenarios
	if !*full {
		searched = []Scenario{
			small(scenario(t, "two recovers into one term")), small(scenario(t, "two recovers by listed successors")),
			small(scenario(t, "a recover beside a decided move")), scenario(t, "a backup from before the group came back"),
			scenario(t, "a backup and another move"), scenario(t, "two moves to one server, and claims"),
			scenario(t, "a group that is closed"),
		}
	}
	for _, sc := range searched {
		start := time.Now()
		r := Explore(sc, "")
		t.Logf("%s: %d states, at most %d events deep, %d left to go on from, in %d all is heard, %.0f s",
			sc.Name, r.States, r.Depth, r.Left, r.Ends, time.Since(start).Seconds())
		if r.Violation != "" || r.Left != 0 {
			t.Errorf("%s\n%s", r.Violation, r.Trace)
		}
	}
}

// TestBugs: an invariant catches each bug.
func TestBugs(t *testing.T) {
	const (
		ends      = "a healthy host ends only by its own signature, the room or its operator"
		one       = "one host, once everybody has heard of everything, unless the room has yet to choose"
		redirects = "redirects end somewhere"
		stuck     = "no honest server is stuck for good"
		together  = "a migration is frozen as long as its group is"
		shows     = "a server shows what it has reclaimed until the former host follows"
	)
	recovers := scenario(t, "two recovers into one term")
	listed := scenario(t, "two recovers by listed successors")
	beside := small(scenario(t, "a recover beside a decided move"))
	backup := scenario(t, "a backup from before the group came back")
	twoMoves := scenario(t, "two moves to one server, and claims")
	offers := scenario(t, "old offers of a hostile host")
	for _, c := range []struct {
		bug      Bug
		scenario Scenario
		catches  string
	}{
		{FollowsAnyClaim, recovers, ends},
		{FollowsSuccessor, listed, ends},
		{HasNoTies, listed, one},
		{GoesOnContested, small(recovers), one},
		{KeepsNothing, recovers, one},
		{ForgetsReturn, backup, redirects},
		{ForgetsVotes, backup, redirects},
		{IgnoresReceipts, backup, "a host has accepted what its receipts say"},
		{YieldsToItself, recovers, "a server that redirects names another server"},
		{CountsOldOffers, offers, "a server stops in a term that it has signed for, or has forgotten"},
		{HeedsOneStep, listed, ends},
		{NeverDrops, beside, stuck},

		{DatabaseFirst, backup, one},
		{TakesOneStep, backup, "what arrives twice changes nothing the second time"},
		{StopsSilently, backup, "a server that stops for what it is shown keeps it"},
		{StaysFrozen, beside, together},
		{YieldsToLower, beside, ends},
		{ClaimsSameTerm, beside, "no server accepts in a term that it has confirmed away"},
		{HidesReclaim, twoMoves, shows},
		{TellsOnce, twoMoves, shows},
		{RecoversBehind, twoMoves, "a server that remembers signs one step after a lineage"},
		{RevivesDropped, twoMoves, ends},
		{ClosesFrozen, scenario(t, "a group that is closed"), together},
	} {
		t.Run(string(c.bug), func(t *testing.T) {
			r := Explore(c.scenario, c.bug)
			if r.Violation != c.catches {
				t.Errorf("%q is caught by %q, after %d states", c.bug, r.Violation, r.States)
			}
			t.Logf("%s, after %d states:\n%s", r.Violation, r.States, r.Trace)
		})
	}
}
