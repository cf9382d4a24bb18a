package hooks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

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

func newFigures(store figuresStore, now func() time.Time) *figures {
	return &figures{
		log: newLogger(), store: store, now: now, failing: func() (int, uint64) { return 2, 7 },
		cache: func() registry.CacheFigures { return registry.CacheFigures{Groups: 3, Bytes: 4, Hits: 5, Misses: 6} },
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
	f := newFigures(store, func() time.Time { return now })
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
