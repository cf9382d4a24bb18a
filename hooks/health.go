package hooks

import (
	"context"
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// health reports whether the module's database answers: in a metric, and in the log at each change.
type health struct {
	up   prometheus.Gauge
	down bool
	log  *slog.Logger
}

// newHealth registers the metric unless reg is nil.
func newHealth(reg prometheus.Registerer, log *slog.Logger) (*health, error) {
	h := &health{log: log, up: prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mimiport_database_up", Help: "Whether the database of MIMI Portability answers: 1 or 0.",
	})}
	h.up.Set(1)
	if reg == nil {
		return h, nil
	}
	return h, reg.Register(h.up)
}

// watch queries the database regularly.
func (h *health) watch(ctx context.Context, store settings) {
	every(ctx, databasePatience, func() {
		_, err := store.Setting(ctx, "heartbeat")
		if errors.Is(err, storage.ErrNotFound) {
			err = nil
		}
		if ctx.Err() == nil {
			h.note(ctx, err)
		}
	})
}

func (h *health) note(ctx context.Context, failure error) {
	switch {
	case failure != nil && !h.down:
		h.up.Set(0)
		h.log.ErrorContext(ctx, "the database does not answer", "error", failure)
	case failure == nil && h.down:
		h.up.Set(1)
		h.log.InfoContext(ctx, "the database answers again")
	}
	h.down = failure != nil
}
