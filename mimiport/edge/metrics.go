package edge

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Metrics counts and times the requests of all APIs.
type Metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	refusals *prometheus.CounterVec
}

// NewMetrics makes the metrics. It registers them when reg is not nil, and returns an error when they are already
// registered.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	labels := []string{"api", "route", "code"}
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mimiport_http_requests_total",
			Help: "Requests answered, by API, route and HTTP status.",
		}, labels),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mimiport_http_request_duration_seconds",
			Help: "Time to answer a request, in seconds, by API, route and HTTP status.",
		}, labels),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mimiport_refusals_total",
			Help: "Requests that this server refused by a named rule or quota, by its name.",
		}, []string{"rule"}),
	}
	if reg == nil {
		return m, nil
	}
	if err := reg.Register(m.refusals); err != nil {
		return nil, err
	}
	if err := reg.Register(m.requests); err != nil {
		return nil, err
	}
	return m, reg.Register(m.seconds)
}

// Middleware counts and times the requests to a router with routes of Mount: mux.Router.Use(m.Middleware("client")).
func (m *Metrics) Middleware(api string) mux.MiddlewareFunc {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			start, sw := time.Now(), &statusWriter{ResponseWriter: w, status: http.StatusOK}
			next.ServeHTTP(sw, r)
			labels := []string{api, mux.CurrentRoute(r).GetName(), strconv.Itoa(sw.status)}
			m.requests.WithLabelValues(labels...).Inc()
			m.seconds.WithLabelValues(labels...).Observe(time.Since(start).Seconds())
			if sw.rule != "" {
				m.refusals.WithLabelValues(sw.rule).Inc()
			}
		})
	}
}

type statusWriter struct {
	http.ResponseWriter
	status int
	rule   string // of a refusal
}

// noteRule tells Middleware the rule of a refusal. The rules of this server are constants. Another server may name any
// rule, so its rules do not count.
func noteRule(w http.ResponseWriter, err error) {
	sw, counted := w.(*statusWriter)
	e, named := errors.AsType[*mimiport.Error](err)
	if counted && named && !e.Remote {
		sw.rule = e.Info.Rule
	}
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the server's own writer.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
