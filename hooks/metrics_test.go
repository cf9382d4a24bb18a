package hooks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// describer is a registerer that notes the names and labels of metrics.
type describer struct {
	prometheus.Registerer
	metrics map[string]string
}

var described = regexp.MustCompile(`fqName: "([^"]*)".*variableLabels: \{([^}]*)\}`)

func (d *describer) Register(c prometheus.Collector) error {
	descs := make(chan *prometheus.Desc)
	go func() {
		c.Describe(descs)
		close(descs)
	}()
	for desc := range descs {
		found := described.FindStringSubmatch(desc.String())
		d.metrics[found[1]] = found[2]
	}
	return nil
}

// TestMetricsAreDocumented: the table in docs/operator.md has exactly the metrics of the module, with their labels.
func TestMetricsAreDocumented(t *testing.T) {
	d := &describer{metrics: make(map[string]string)}
	if _, err := newMetrics(d, newLogger()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../docs/operator.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]string)
	for _, row := range regexp.MustCompile("(?m)^\\| `(mimiport_[a-z_]+)` \\| ([^|]*) \\|").FindAllStringSubmatch(
		string(text), -1) {
		documented[row[1]] = strings.ReplaceAll(strings.ReplaceAll(row[2], "`", ""), ", ", ",")
	}
	if diff := cmp.Diff(d.metrics, documented); diff != "" {
		t.Errorf("the code has - and the table +:\n%s", diff)
	}
}

// counts is a database with many destinations.
type counts struct {
	figures storage.Figures
	err     error
	asked   int
}

func (c *counts) Figures(context.Context) (*storage.Figures, error) {
	c.asked++
	return &c.figures, c.err
}

// drained is a service with a drain.
type drained struct{ drain api.Drain }

func (d *drained) Drain(context.Context) (*api.Drain, error) { return &d.drain, nil }

func (d *drained) Cache() registry.CacheFigures {
	return registry.CacheFigures{Groups: 3, Bytes: 4, Hits: 5, Misses: 6}
}

func newFigures(store figuresStore, service figuresService, now func() time.Time) *figures {
	return &figures{
		log: newLogger(), store: store, service: service, now: now, failing: func() (int, uint64) { return 2, 7 },
	}
}

// TestFiguresAreBounded: the 20 destinations with the oldest rows have metrics of their own, and the rest is one sum.
func TestFiguresAreBounded(t *testing.T) {
	begin := time.Unix(1_700_000_000, 0)
	store := &counts{figures: storage.Figures{
		Groups:     map[migration.GroupState]int{migration.GroupStopped: 2},
		Migrations: map[storage.MigrationClass]int{{Role: migration.Source, State: migration.Moved}: 9}, Members: 11,
		Frozen: begin.Add(-time.Minute),
	}}
	for i := range 1000 {
		store.figures.Outbox = append(store.figures.Outbox, storage.Backlog{
			Destination: fmt.Sprintf("s%d.example", i), Rows: i, Oldest: begin.Add(-time.Duration(i) * time.Second),
		})
	}
	now := begin
	f := newFigures(store, &drained{api.Drain{State: api.DrainNone}}, func() time.Time { return now })
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(f)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	rows := make(map[string]float64)
	series := 0
	for _, family := range families {
		series += len(family.GetMetric())
		if family.GetName() == "mimiport_outbox_rows" {
			for _, m := range family.GetMetric() {
				rows[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
			}
		}
	}
	if len(rows) != worst+1 || rows["s999.example"] != 999 || rows[others] != 979*980/2 {
		t.Errorf("%d destinations: %v", len(rows), slices.Sorted(maps.Keys(rows)))
	}
	if series > 100 {
		t.Errorf("%d time series", series)
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP mimiport_frozen_oldest_seconds Age of the oldest migration that is frozen, 0 for none.
# TYPE mimiport_frozen_oldest_seconds gauge
mimiport_frozen_oldest_seconds 60
# HELP mimiport_staged_oldest_seconds Age of the oldest migration that is staged, 0 for none.
# TYPE mimiport_staged_oldest_seconds gauge
mimiport_staged_oldest_seconds 0
`), "mimiport_frozen_oldest_seconds", "mimiport_staged_oldest_seconds"); err != nil {
		t.Error(err)
	}
	if store.asked != 1 {
		t.Errorf("the database was asked %d times in no time", store.asked)
	}
	now = now.Add(figuresLife)
	store.err = errors.New("gone")
	families, err = reg.Gather()
	for _, family := range families {
		if family.GetName() == "mimiport_groups" {
			t.Error("old figures look like present ones")
		}
	}
	if err != nil || store.asked != 2 {
		t.Errorf("asked %d times, %v", store.asked, err)
	}
}

// TestDrainFigures: the groups of a drain count by state while it is on, also after its deadline, and not afterwards.
func TestDrainFigures(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	groups := map[api.DrainGroupState]int{api.DrainStuck: 3, api.DrainMoved: 40}
	for _, test := range []struct {
		state    api.DrainState
		deadline time.Duration // from now
		stuck    float64
		left     float64
	}{
		{api.DrainNone, 0, 0, math.Inf(1)},
		{api.DrainRunning, 0, 3, math.Inf(1)},
		{api.DrainRunning, time.Hour, 3, 3600},
		{api.DrainOverdue, -time.Minute, 3, -60},
		{api.DrainStopped, time.Hour, 0, math.Inf(1)},
	} {
		d := &drained{api.Drain{State: test.state, Groups: groups}}
		if test.deadline != 0 {
			d.drain.Deadline = now.Add(test.deadline).UnixMilli()
		}
		reg := prometheus.NewPedanticRegistry()
		reg.MustRegister(newFigures(&counts{}, d, func() time.Time { return now }))
		want := fmt.Sprintf(`
# HELP mimiport_drain_deadline_seconds Time to the deadline of the drain that is on, +Inf for none.
# TYPE mimiport_drain_deadline_seconds gauge
mimiport_drain_deadline_seconds %v
# HELP mimiport_drain_groups Groups of the drain that is on by state, 0 while none is on.
# TYPE mimiport_drain_groups gauge
mimiport_drain_groups{state="asked"} 0
mimiport_drain_groups{state="gone"} 0
mimiport_drain_groups{state="moved"} %v
mimiport_drain_groups{state="moving"} 0
mimiport_drain_groups{state="stuck"} %v
mimiport_drain_groups{state="waiting"} 0
`, test.left, test.stuck/3*40, test.stuck)
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "mimiport_drain_groups",
			"mimiport_drain_deadline_seconds"); err != nil {
			t.Errorf("%s: %v", test.state, err)
		}
	}
}
