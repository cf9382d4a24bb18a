package explore

import (
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestScenarios plays the main courses of a hand-over, one event a line. It compares the changes by each event with
// testdata. -rewrite writes testdata anew. Here each row needs a line of its own to be worked off.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return play(t, strings.Split(d.Input, "\n"))
		})
	})
}

func play(t *testing.T, events []string) string {
	m := &model{bounds: stated}
	at := *first()
	var out strings.Builder
	for n, name := range events {
		before, found := at, false
		m.events(&before, func(e event, next *world) {
			if e.String() == name {
				found, at = true, *next
				if broken := m.check(&before, next, e); broken != "" {
					t.Errorf("%s: broken at line %d", broken, n+1)
				}
			}
		})
		if !found {
			t.Fatalf("this cannot happen, or changes nothing, at line %d: %s", n+1, name)
		}
		writeStep(&out, n+1, name, &before, &at)
	}
	return out.String()
}
