package federation_test

import (
	"testing"

	"github.com/opentracing/opentracing-go"
	"github.com/opentracing/opentracing-go/mocktracer"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/trace"
)

// TestTraceCrossesServers: the span of another server's answer is below the span of this server's request.
func TestTraceCrossesServers(t *testing.T) {
	before, mock := opentracing.GlobalTracer(), mocktracer.New()
	opentracing.SetGlobalTracer(mock)
	t.Cleanup(func() { opentracing.SetGlobalTracer(before) })
	ctx, end := trace.Start(t.Context(), "here")
	if _, err := client(newNetwork(t)).API(source, target).Group(ctx, alice, group); err != nil {
		t.Fatal(err)
	}
	end(nil)
	spans := make(map[string]*mocktracer.MockSpan)
	for _, s := range mock.FinishedSpans() {
		spans[s.OperationName] = s
	}
	here, asked, answered := spans["here"], spans["mimiport ask getGroup"], spans["mimiport getGroup"]
	if here == nil || asked == nil || answered == nil {
		t.Fatalf("the spans are %v", spans)
	}
	if asked.ParentID != here.SpanContext.SpanID || answered.ParentID != asked.SpanContext.SpanID {
		t.Errorf("the spans are not joined: %v", spans)
	}
}
