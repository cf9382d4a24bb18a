package trace_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/opentracing/opentracing-go"
	"github.com/opentracing/opentracing-go/mocktracer"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/trace"
)

// tracer sets a tracer for one test.
func tracer(t *testing.T) *mocktracer.MockTracer {
	before, mock := opentracing.GlobalTracer(), mocktracer.New()
	opentracing.SetGlobalTracer(mock)
	t.Cleanup(func() { opentracing.SetGlobalTracer(before) })
	return mock
}

// TestJoin: a span of another server is in the trace of the request that led to it, and so is later work.
func TestJoin(t *testing.T) {
	mock, h := tracer(t), make(http.Header)
	ctx, end := trace.Start(t.Context(), "here", trace.Tag{Key: "group_id", Value: "AQ"})
	opentracing.SpanFromContext(ctx).SetBaggageItem("secret", "s")
	trace.Inject(ctx, h)
	there, endThere := trace.Extract(t.Context(), h, "there")
	_, endLater := trace.StartAfter(t.Context(), trace.Of(there), "later")
	endLater(nil)
	endThere(errors.New("no"))
	end(nil)
	spans := mock.FinishedSpans()
	for i, name := range []string{"later", "there", "here"} {
		if s := spans[i]; s.OperationName != name || s.SpanContext.TraceID != spans[2].SpanContext.TraceID {
			t.Errorf("%s: %v", name, s)
		}
	}
	joined, here := spans[1], spans[2]
	if joined.ParentID != here.SpanContext.SpanID || joined.Tag("error") != true || here.Tag("group_id") != "AQ" {
		t.Errorf("%v", spans)
	}
	for name := range h {
		if !strings.HasPrefix(name, "Mimiport-Trace-") || strings.Contains(strings.ToLower(name), "baggage") {
			t.Errorf("the header %s leaves this server", name)
		}
	}
}

// TestHostileHeaders: a peer's headers never fail a request. Large, many or foreign ones do not count.
func TestHostileHeaders(t *testing.T) {
	mock := tracer(t)
	many := make(http.Header)
	for i := range 1000 {
		many.Set(fmt.Sprint("Mimiport-Trace-", i), "1")
	}
	for name, h := range map[string]http.Header{
		"none": {}, "many": many, "nonsense": {"Mimiport-Trace-Mockpfx-Ids-Traceid": {"x"}},
		"the tracer's own": {"Mockpfx-Ids-Traceid": {"1"}, "Mockpfx-Ids-Spanid": {"2"}},
		"large": {
			"Mimiport-Trace-Mockpfx-Ids-Traceid": {"1" + strings.Repeat("0", 1000)}, "Mimiport-Trace-Mockpfx-Ids-Spanid": {"2"},
		},
		"twice": {"Mimiport-Trace-Mockpfx-Ids-Traceid": {"1", "2"}, "Mimiport-Trace-Mockpfx-Ids-Spanid": {"2"}},
	} {
		mock.Reset()
		_, end := trace.Extract(t.Context(), h, "there")
		end(nil)
		if s := mock.FinishedSpans()[0]; s.ParentID != 0 {
			t.Errorf("%s: the span has a parent: %v", name, s)
		}
	}
}

// TestNoTracer: without a tracer no header leaves this server.
func TestNoTracer(t *testing.T) {
	h := make(http.Header)
	ctx, end := trace.Start(t.Context(), "here")
	trace.Inject(ctx, h)
	end(nil)
	if len(h) > 0 {
		t.Errorf("%v", h)
	}
}
