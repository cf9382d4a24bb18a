package hooks

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/outbox"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// metrics are all metrics of the module. docs/operator.md has a table of them.
type metrics struct {
	requests *edge.Metrics
	service  *delivery.Metrics
	database *prometheus.HistogramVec
	health   *health
	figures  *figures
}

// newMetrics registers the metrics with reg.
func newMetrics(reg prometheus.Registerer, log *slog.Logger) (m *metrics, err error) {
	m = &metrics{database: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "mimiport_database_seconds", Help: "Time of a transaction or query of the module's database, in seconds.",
	}, []string{"operation"}), figures: &figures{log: log}}
	if m.requests, err = edge.NewMetrics(reg); err != nil {
		return nil, err
	}
	if m.service, err = delivery.NewMetrics(reg); err != nil {
		return nil, err
	}
	if m.health, err = newHealth(reg, log); err != nil {
		return nil, err
	}
	return m, errors.Join(reg.Register(m.database), reg.Register(m.figures))
}

// timed records the time of an operation of the database: "read" or "write".
func (m *metrics) timed(operation string, took time.Duration) {
	m.database.WithLabelValues(operation).Observe(took.Seconds())
}

// figures are the metrics that the database and the worker tell when Prometheus asks.
type figures struct {
	log *slog.Logger

	mu      sync.Mutex
	store   figuresStore // nil until the module has started
	service figuresService
	now     func() time.Time
	failing func() (peers int, failures uint64)
	last    *storage.Figures
	drain   *api.Drain
	at      time.Time
}

// start makes Collect answer.
func (f *figures) start(store figuresStore, service figuresService, worker *outbox.Worker) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.store, f.service, f.now = store, service, clock
	f.failing = func() (int, uint64) { return len(worker.Failing()), worker.Failures() }
}

type figuresStore interface {
	Figures(ctx context.Context) (*storage.Figures, error)
}

type figuresService interface {
	Drain(ctx context.Context) (*api.Drain, error)
	Cache() registry.CacheFigures
}

// figuresLife is how long figures count. They read all groups, migrations and rows.
const figuresLife = 10 * time.Second

// worst is the largest number of destinations with metrics of their own. The others are summed up as "other", so that
// the number of time series is bounded.
const (
	worst  = 20
	others = "other"
)

func gauge(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("mimiport_"+name, help, labels, nil)
}

var (
	groupsDesc     = gauge("groups", "Groups, each in its highest term, by state.", "state")
	membersDesc    = gauge("members", "Leaves of the groups that are active or frozen.")
	migrationsDesc = gauge("migrations", "Migrations by role and state.", "role", "state")
	frozenDesc     = gauge("frozen_oldest_seconds", "Age of the oldest migration that is frozen, 0 for none.")
	stagedDesc     = gauge("staged_oldest_seconds", "Age of the oldest migration that is staged, 0 for none.")
	drainDesc      = gauge("drain_groups", "Groups of the drain that is on by state, 0 while none is on.", "state")
	deadlineDesc   = gauge("drain_deadline_seconds", "Time to the deadline of the drain that is on, +Inf for none.")
	evidenceDesc   = gauge("evidence", "Pieces of evidence by kind.", "kind")
	rowsDesc       = gauge("outbox_rows", "Rows of the outbox by destination.", "destination")
	ageDesc        = gauge("outbox_oldest_seconds", "Age of the oldest row by destination.", "destination")
	failingDesc    = gauge("peers_failing", "Servers to which this process cannot deliver.")
	failuresDesc   = gauge("peer_failures_total", "Failed deliveries and other work for servers.")
	cacheDesc      = gauge("cache_bytes", "Memory of the loaded groups, estimated.")
	cachedDesc     = gauge("cache_groups", "Loaded groups.")
	lookupsDesc    = gauge("cache_lookups_total", "Uses of a group, by whether it was loaded.", "result")
)

// Describe implements prometheus.Collector.
func (f *figures) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		groupsDesc, membersDesc, migrationsDesc, frozenDesc, stagedDesc, drainDesc, deadlineDesc, evidenceDesc, rowsDesc,
		ageDesc, failingDesc, failuresDesc, cacheDesc, cachedDesc, lookupsDesc,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector. While the database does not answer, its figures are absent: old numbers
// would look like true ones.
func (f *figures) Collect(to chan<- prometheus.Metric) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.store == nil {
		return
	}
	set := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	count := func(d *prometheus.Desc, value uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	peers, failures := f.failing()
	set(failingDesc, float64(peers))
	count(failuresDesc, failures)
	c := f.service.Cache()
	set(cacheDesc, float64(c.Bytes))
	set(cachedDesc, float64(c.Groups))
	count(lookupsDesc, c.Hits, "hit")
	count(lookupsDesc, c.Misses, "miss")
	if err := f.read(); err != nil {
		f.log.Warn("cannot read the figures for the metrics", "error", err)
		return
	}
	f.collect(set)
	f.collectDrain(set)
}

// read reads the figures unless they are of the last ten seconds.
func (f *figures) read() (err error) {
	now := f.now()
	if f.last != nil && now.Sub(f.at).Abs() < figuresLife {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), databasePatience)
	defer cancel()
	f.at = now
	if f.last, err = f.store.Figures(ctx); err == nil {
		f.drain, err = f.service.Drain(ctx)
	}
	if err != nil {
		f.last = nil
	}
	return err
}

func (f *figures) collect(set func(*prometheus.Desc, float64, ...string)) {
	all := f.last
	for _, state := range migration.GroupStates {
		set(groupsDesc, float64(all.Groups[state]), string(state))
	}
	set(membersDesc, float64(all.Members))
	for _, role := range migration.Roles {
		for _, state := range migration.States {
			if state.Of(role) {
				class := storage.MigrationClass{Role: role, State: state}
				set(migrationsDesc, float64(all.Migrations[class]), string(role), string(state))
			}
		}
	}
	set(frozenDesc, f.age(all.Frozen))
	set(stagedDesc, f.age(all.Staged))
	for _, kind := range storage.EvidenceKinds {
		set(evidenceDesc, float64(all.Evidence[kind]), string(kind))
	}
	for _, b := range worstOf(all.Outbox) {
		set(rowsDesc, float64(b.Rows), b.Destination)
		set(ageDesc, f.age(b.Oldest), b.Destination)
	}
}

// collectDrain tells the drain that is on. Of a drain that has been stopped, or that never was, nothing counts.
func (f *figures) collectDrain(set func(*prometheus.Desc, float64, ...string)) {
	d := f.drain
	if d.State == api.DrainNone || d.State == api.DrainStopped {
		d = &api.Drain{}
	}
	for _, state := range api.DrainGroupStates {
		set(drainDesc, float64(d.Groups[state]), string(state))
	}
	left := math.Inf(1)
	if d.Deadline > 0 {
		left = storage.Time(d.Deadline).Sub(f.now()).Seconds()
	}
	set(deadlineDesc, left)
}

func (f *figures) age(since time.Time) float64 {
	if since.IsZero() {
		return 0
	}
	return max(f.now().Sub(since).Seconds(), 0)
}

// worstOf returns the destinations with the oldest rows, and one for the sum of all others.
func worstOf(all []storage.Backlog) []storage.Backlog {
	sum := storage.Backlog{Destination: others}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b storage.Backlog) int {
		if a.Oldest.IsZero() != b.Oldest.IsZero() { // rows of an older version are the oldest
			if a.Oldest.IsZero() {
				return -1
			}
			return 1
		}
		return cmp.Or(a.Oldest.Compare(b.Oldest), cmp.Compare(b.Rows, a.Rows))
	})
	for _, b := range all[min(worst, len(all)):] {
		sum.Rows += b.Rows
		if sum.Oldest.IsZero() || b.Oldest.Before(sum.Oldest) {
			sum.Oldest = b.Oldest
		}
	}
	return append(all[:min(worst, len(all))], sum)
}
