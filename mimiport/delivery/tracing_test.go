package delivery_test

import (
	"testing"

	"github.com/opentracing/opentracing-go"
	"github.com/opentracing/opentracing-go/mocktracer"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/trace"
)

// TestMigrationIsOneTrace: the rows of a migration at both servers are in the trace of the Init that began it. Rows of
// other migrations are not.
func TestMigrationIsOneTrace(t *testing.T) {
	before, mock := opentracing.GlobalTracer(), mocktracer.New()
	opentracing.SetGlobalTracer(mock)
	t.Cleanup(func() { opentracing.SetGlobalTracer(before) })
	p := newPlay(t)
	a := p.mustRequest(serverA, serverB, bob)
	ctx, end := trace.Start(t.Context(), "init")
	must(p.services[serverA].InitMigration(ctx, caller(bob), a.id, a.init))(t)
	end(nil)
	p.run()
	p.expect(a, "moved", "active")
	p.group = a.commit.Next
	init := 0
	rows := make(map[string]int)
	for _, s := range mock.FinishedSpans() {
		if s.OperationName == "init" {
			init = s.SpanContext.TraceID
		}
		if s.Tag("migration_id") == a.id.String() {
			rows[s.OperationName] = s.SpanContext.TraceID
		}
	}
	for _, name := range []string{"mimiport row content", "mimiport row confirmation"} {
		if rows[name] != init || init == 0 {
			t.Errorf("%s is in the trace %d, the Init in %d", name, rows[name], init)
		}
	}
	mock.Reset()
	p.move(serverB, serverA, alice)
	for _, s := range mock.FinishedSpans() {
		if s.SpanContext.TraceID == init {
			t.Errorf("%s of the next migration is in the trace of the first", s.OperationName)
		}
	}
}
