// Package trace makes spans with the tracer that the program has set up for OpenTracing. Without one it does nothing.
package trace

import (
	"context"
	"net/http"
	"strings"

	"github.com/opentracing/opentracing-go"
	"github.com/opentracing/opentracing-go/ext"
)

// Tag is a tag of a span.
type Tag struct{ Key, Value string }

// Start starts a span below that of the context. end ends it, with the error of the traced work or nil.
func Start(ctx context.Context, name string, tags ...Tag) (_ context.Context, end func(error)) {
	span, ctx := opentracing.StartSpanFromContext(ctx, name)
	return ctx, ending(span, tags)
}

// StartAfter is Start for work that follows from a span of another context, which may have ended. A nil earlier span is
// none.
func StartAfter(
	ctx context.Context, earlier opentracing.SpanContext, name string, tags ...Tag,
) (_ context.Context, end func(error)) {
	if earlier == nil {
		return Start(ctx, name, tags...)
	}
	span, ctx := opentracing.StartSpanFromContext(ctx, name, opentracing.FollowsFrom(earlier))
	return ctx, ending(span, tags)
}

func ending(span opentracing.Span, tags []Tag) func(error) {
	for _, tag := range tags {
		span.SetTag(tag.Key, tag.Value)
	}
	return func(err error) {
		if err != nil {
			ext.Error.Set(span, true)
		}
		span.Finish()
	}
}

// Of returns the span of a context, nil for none.
func Of(ctx context.Context) opentracing.SpanContext {
	span := opentracing.SpanFromContext(ctx)
	if span == nil {
		return nil
	}
	return span.Context()
}

// The tracer's headers travel with a prefix, so that no other part of a homeserver takes them for its own. What the
// tracer calls baggage stays here, and a peer cannot make this server record more than it wants.
const (
	prefix     = "Mimiport-Trace-"
	maxHeaders = 4
	maxValue   = 256 // bytes
)

var withheld = []string{"Uberctx-", "Jaeger-", "Ot-Baggage-", "Mockpfx-Baggage-", "Baggage"}

// carrier is the part of a request's headers that a tracer reads and writes.
type carrier http.Header

// Set implements opentracing.TextMapWriter.
func (c carrier) Set(key, value string) {
	key = http.CanonicalHeaderKey(key)
	for _, start := range withheld {
		if strings.HasPrefix(key, start) {
			return
		}
	}
	http.Header(c).Set(prefix+key, value)
}

// ForeachKey implements opentracing.TextMapReader.
func (c carrier) ForeachKey(f func(key, value string) error) error {
	plain := make(carrier)
	for name, values := range c {
		if key, ok := strings.CutPrefix(name, prefix); ok && len(values) == 1 && len(values[0]) <= maxValue {
			plain.Set(key, values[0])
		}
	}
	if len(plain) > maxHeaders {
		return nil
	}
	for name, values := range plain {
		if err := f(strings.TrimPrefix(name, prefix), values[0]); err != nil {
			return err
		}
	}
	return nil
}

// Inject writes the span of the context into the headers of a request to another server.
func Inject(ctx context.Context, h http.Header) {
	if span := opentracing.SpanFromContext(ctx); span != nil {
		// A tracer that cannot write itself into text traces this server alone.
		_ = span.Tracer().Inject(span.Context(), opentracing.TextMap, carrier(h))
	}
}

// Extract starts a span below the one that another server wrote into the headers of its request.
func Extract(ctx context.Context, h http.Header, name string, tags ...Tag) (_ context.Context, end func(error)) {
	earlier, err := opentracing.GlobalTracer().Extract(opentracing.TextMap, carrier(h))
	if err != nil { // there is none
		return Start(ctx, name, tags...)
	}
	span, ctx := opentracing.StartSpanFromContext(ctx, name, ext.RPCServerOption(earlier))
	return ctx, ending(span, tags)
}
