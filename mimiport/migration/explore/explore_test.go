package explore

import "testing"

func TestBugs(t *testing.T) {
	for _, bug := range []Bug{SendsBeforeSaving, NoCompareAndSet, SplitsTransaction, RowsInMemory, AbortsBySilence, ExpiresStaged, ReusesNonce, IgnoresNonce,
		UsesNonceTwice, ActivatesOnImport, AcksEarly, CountsLateVote, FreezesAgain, UndoesDecision, MergesEarly} {
		t.Run(string(bug), func(t *testing.T) {
			b := Bounds{Terms: 1, Crashes: 1, Losses: 1, Duplicates: 1}
			if bug == ReusesNonce || bug == IgnoresNonce {
				b = Bounds{Terms: 3, NoCommits: true}
			}
			r := Explore(b, bug)
			t.Logf("%d states; %s\n%s", r.States, r.Violation, r.Trace)
			if r.Violation == "" {
				t.Error("not caught")
			}
		})
	}
}

func TestExplore(t *testing.T) {
	for _, b := range []Bounds{{Terms: 1}, {Terms: 1, Crashes: 1}, {Terms: 1, Crashes: 2, Losses: 2, Duplicates: 1}, {Terms: 2, NoCommits: true}} {
		r := Explore(b, "")
		t.Logf("%+v: %d states, depth %d, fair %d", b, r.States, r.Depth, r.Fair)
		if r.Violation != "" {
			t.Errorf("%s\n%s", r.Violation, r.Trace)
		}
	}
}
