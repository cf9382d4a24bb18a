package hosts

import (
	"fmt"
	"slices"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

func (s server) String() string { return string("ABC"[s]) }

// lineage is the text of a lineage: its steps, each with the server that gets the group.
func (t tree) lineage(i step) string {
	var steps []string
	for ; i != root; i = t[i].before {
		kind := map[mimiport.StepKind]string{
			mimiport.StepMigration: "move", mimiport.StepReclaim: "reclaim", mimiport.StepRecover: "recover",
		}[t[i].kind]
		steps = append(steps, kind+"→"+t[i].host.String())
	}
	slices.Reverse(steps)
	return "[" + strings.Join(steps, " ") + "]"
}

var signNames = []string{
	"offer", "content", "vote", "decision", "abort", "receipt", "receipt for another Commit", "latest epoch",
	"signed in an outage", "yet to be shown to the host before",
}

var outageNames = []string{"in service", "out", "out for a day", "back", "back after a day", "lost"}

// facts lists the facts of a world.
func (m *model) facts(w *world) []string {
	var facts []string
	say := func(format string, args ...any) { facts = append(facts, fmt.Sprintf(format, args...)) }
	for s := range server(servers) {
		d := &w.data[s]
		for t, r := range d.rows {
			if r.state != none {
				commits := []string{"", ", with a Commit", ", with another Commit"}[r.log]
				say("%s, term %d: the group is %s, %s%s", s, t, groupStates[r.state], m.lineage(r.at), commits)
			}
		}
		for i := range d.records {
			if r := d.records[i].source; r.state != 0 {
				say("%s: %s is %s", s, m.lineage(step(i+1)), states[r.state])
			}
			if r := d.records[i].target; r.state != 0 {
				say("%s: %s is %s", s, m.lineage(step(i+1)), states[r.state])
			}
		}
		if d.kept {
			say("%s has kept evidence", s)
		}
		if w.outage[s] != inService {
			say("%s is %s", s, outageNames[w.outage[s]])
		}
	}
	for i := range m.tree {
		for n, name := range signNames {
			if w.signed[i]>>n&1 != 0 {
				say("signed of %s: %s", m.lineage(step(i)), name)
			}
		}
	}
	if w.named != root {
		say("the room names %s", m.lineage(w.named))
	}
	slices.Sort(facts)
	return facts
}
