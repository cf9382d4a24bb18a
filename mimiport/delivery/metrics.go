package delivery

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Metrics counts what a Service accepts, and times its checks. A nil Metrics does nothing.
type Metrics struct {
	messages *prometheus.CounterVec
	checks   prometheus.Histogram
	requests *prometheus.CounterVec
}

// NewMetrics makes the metrics and registers them.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mimiport_messages_total", Help: "Messages accepted into the logs of groups, by kind.",
		}, []string{"kind"}),
		checks: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mimiport_verification_seconds", Help: "Time to check a Commit and what it leads to, in seconds.",
		}),
	}
	m.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mimiport_move_requests_total", Help: "Requests of a drain to move a group, by whether they arrived.",
	}, []string{"result"})
	m.asked(0, 0) // 0 from the start on
	if err := reg.Register(m.requests); err != nil {
		return nil, err
	}
	for _, kind := range []storage.EntryKind{
		storage.EntryProposal, storage.EntryCommit, storage.EntryApplication, storage.EntryWelcome,
	} {
		m.messages.WithLabelValues(string(kind)) // 0 from the start on
	}
	if err := reg.Register(m.messages); err != nil {
		return nil, err
	}
	return m, reg.Register(m.checks)
}

func (m *Metrics) accepted(entries []storage.Entry) {
	if m == nil {
		return
	}
	for i := range entries {
		m.messages.WithLabelValues(string(entries[i].Kind)).Inc()
	}
}

// asked counts requests to move groups.
func (m *Metrics) asked(arrived, lost int) {
	if m == nil {
		return
	}
	m.requests.WithLabelValues("arrived").Add(float64(arrived))
	m.requests.WithLabelValues("lost").Add(float64(lost))
}

// checking starts to time a check. The result ends it.
func (m *Metrics) checking() (end func()) {
	if m == nil {
		return func() {}
	}
	begin := time.Now()
	return func() { m.checks.Observe(time.Since(begin).Seconds()) }
}

// Cache says how the cache of loaded groups does.
func (s *core) Cache() registry.CacheFigures { return s.groups.Cache() }
