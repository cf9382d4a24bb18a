package delivery

import (
	"context"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opentracing/opentracing-go"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/trace"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// maxTraces is the largest number of migrations whose spans are in memory.
const maxTraces = 1024

// traces remembers the first span of each migration, so that the spans of its rows join it. After a restart the rows of
// a migration begin a trace of their own.
type traces struct {
	mu    sync.Mutex
	spans *simplelru.LRU[mimiport.MigrationID, opentracing.SpanContext]
}

func newTraces() *traces {
	spans, _ := simplelru.NewLRU[mimiport.MigrationID, opentracing.SpanContext](maxTraces, nil) // the size is positive
	return &traces{spans: spans}
}

// note remembers the span of a request that changes a migration, unless there is an earlier one.
func (t *traces) note(ctx context.Context, id mimiport.MigrationID) {
	span := trace.Of(ctx)
	if span == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.spans.Contains(id) {
		t.spans.Add(id, span)
	}
}

// start starts the span of a row.
func (t *traces) start(ctx context.Context, row *storage.Row) (_ context.Context, end func(error)) {
	t.mu.Lock()
	earlier, _ := t.spans.Get(row.Migration)
	t.mu.Unlock()
	tags := []trace.Tag{{Key: "group_id", Value: mimiport.IDText(row.GroupID)}, {Key: "server", Value: row.Destination}}
	if row.Migration != (mimiport.MigrationID{}) {
		tags = append(tags, trace.Tag{Key: "migration_id", Value: row.Migration.String()})
	}
	return trace.StartAfter(ctx, earlier, "mimiport row "+string(row.Kind), tags...)
}
