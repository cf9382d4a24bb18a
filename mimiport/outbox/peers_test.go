package outbox_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/outbox"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// forbiddenHere is an error that a key of the configuration permits.
type forbiddenHere struct{ error }

func (forbiddenHere) Remedy() string { return "set the key" }

// warnings keeps the warnings of a log.
type warnings struct {
	slog.Handler
	mu   sync.Mutex
	text strings.Builder
}

func (w *warnings) Enabled(context.Context, slog.Level) bool { return true }
func (w *warnings) WithAttrs([]slog.Attr) slog.Handler       { return w }
func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	if r.Level != slog.LevelWarn {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	r.Attrs(func(a slog.Attr) bool { w.text.WriteString(a.String() + "; "); return true })
	w.text.WriteString("\n")
	return nil
}

func (w *warnings) all() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// tasks does rows that are no messages.
type tasks func(ctx context.Context, row storage.Row) error

func (do tasks) Do(ctx context.Context, row storage.Row) error { return do(ctx, row) }

func (tasks) Deliver(context.Context, []storage.Row) (int, error) { panic("no row is a message") }

// TestFailingPeer: from the fifth failure on, a server is worth a warning. The warning names the cause and the remedy,
// and comes again each hour. The list of failing servers has the server from the first failure to the first success.
func TestFailingPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin, kept := time.Now(), &warnings{}
		var works atomic.Bool
		store := memory.New()
		worker := outbox.New(store, tasks(func(ctx context.Context, row storage.Row) error {
			if !works.Load() && row.Destination == "b" {
				return mimiport.Errorf("send", mimiport.KindPeer, "b: %w", forbiddenHere{errors.New("not a public address")})
			}
			return store.Apply(ctx, &storage.Change{Done: []storage.RowKey{row.Key()}})
		}), []string{own}, time.Now, func() float64 { return 0 }, slog.New(kept))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go worker.Run(ctx)
		rows := []storage.Row{row("b", "q", 1, begin), row("c", "q", 1, begin)}
		if err := store.Apply(ctx, &storage.Change{Rows: rows}); err != nil {
			t.Fatal(err)
		}
		worker.Wake()
		at := func(d time.Duration) {
			<-time.After(time.Until(begin.Add(d)))
			synctest.Wait()
		}
		at(14 * time.Second) // attempts come after 0, 1, 3, 7 and 15 s
		failing := worker.Failing()
		if len(failing) != 1 || failing[0].Server != "b" || failing[0].Attempts != 4 || !failing[0].Since.Equal(begin) {
			t.Errorf("after four failures: %+v", failing)
		}
		if kept.all() != "" {
			t.Errorf("warned too early: %s", kept.all())
		}
		at(16 * time.Second)
		for _, part := range []string{"server=b", "attempts=5", "not a public address", "remedy=set the key"} {
			if !strings.Contains(kept.all(), part) {
				t.Errorf("the warning %q lacks %q", kept.all(), part)
			}
		}
		at(59 * time.Minute)
		if n := strings.Count(kept.all(), "\n"); n != 1 {
			t.Errorf("%d warnings in an hour", n)
		}
		at(70 * time.Minute)
		if n := strings.Count(kept.all(), "\n"); n != 2 {
			t.Errorf("%d warnings after an hour", n)
		}
		works.Store(true)
		at(80 * time.Minute)
		if failing := worker.Failing(); len(failing) > 0 {
			t.Errorf("after a success: %+v", failing)
		}
		cancel()
		synctest.Wait()
	})
}
