package hosts

import (
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration/explore/space"
)

// courses maps the command in the file of a course to the name of its scenario.
var courses = map[string]string{
	"claim":   "a recover beside a decided move",
	"restore": "a backup from before the group came back",
}

// TestScenarios plays courses, one event a line. It compares the changes by each event with testdata. -rewrite writes
// testdata anew.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return play(t, &model{Scenario: scenario(t, courses[d.Cmd]).build()}, strings.Split(d.Input, "\n"))
		})
	})
}

func play(t *testing.T, m *model, events []string) string {
	at := *m.start()
	var out strings.Builder
	for n, name := range events {
		before, found := at, false
		m.events(&before, func(e event, next *world) {
			if m.say(e) != name {
				return
			}
			found, at = true, *next
			if broken := m.check(&before, next, e); broken != "" {
				t.Errorf("%s: broken at line %d", broken, n+1)
			}
		})
		if !found {
			t.Fatalf("this cannot happen, or changes nothing, at line %d: %s", n+1, name)
		}
		space.WriteStep(&out, n+1, name, m.facts(&before), m.facts(&at))
	}
	return out.String()
}
