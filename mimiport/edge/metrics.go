package edge

import (
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts and times the requests of all APIs.
type Metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
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
	}
	if reg == nil {
		return m, nil
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
		})
	}
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the server's own writer.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
