package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// script is a database that gives the answers of a list, one after the other, and then shuts the homeserver down.
type script struct {
	answers []error
	end     context.CancelFunc
	seen    func()
}

func (s *script) Setting(context.Context, string) (json.RawMessage, error) {
	s.seen()
	if len(s.answers) == 0 {
		s.end()
		return nil, nil
	}
	answer := s.answers[0]
	s.answers = s.answers[1:]
	return nil, answer
}

func (s *script) PutSetting(context.Context, string, json.RawMessage) error { return nil }

// TestHealth: the metric follows the database, and the log has one line for each change.
func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		var lines lineCounter
		h, err := newHealth(reg, slog.New(&lines))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var up []float64
		gone := errors.New("gone")
		h.watch(ctx, &script{
			answers: []error{nil, gone, gone, storage.ErrNotFound, nil}, end: cancel,
			seen: func() { up = append(up, testutil.ToFloat64(h.up)) },
		})
		if want := []float64{1, 1, 0, 0, 1, 1}; !slices.Equal(up, want) {
			t.Errorf("before each answer the metric was %v, want %v", up, want)
		}
		if lines != 2 {
			t.Errorf("%d lines in the log, want 2", lines)
		}
	})
}

// lineCounter counts the lines of a log.
type lineCounter int

func (*lineCounter) Enabled(context.Context, slog.Level) bool { return true }
func (c *lineCounter) Handle(context.Context, slog.Record) error {
	*c++
	return nil
}
func (c *lineCounter) WithAttrs([]slog.Attr) slog.Handler { return c }
func (c *lineCounter) WithGroup(string) slog.Handler      { return c }
