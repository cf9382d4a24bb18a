package hooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/process"
)

// feedRig has Dendrite's streams on three NATS servers. A stream of Dendrite's is on all three.
type feedRig struct {
	*Deps
	cluster harness.NATS
	js      nats.JetStreamContext
	stream  string
}

func newFeedRig(tb testing.TB) *feedRig {
	tb.Helper()
	cluster := harness.StartNATS(tb)
	cfg := testConfig(tb, "a.example")
	cfg.Global.JetStream.Matrix, cfg.Global.JetStream.DisableTLSValidation = &cfg.Global, false
	cfg.Global.JetStream.Addresses = cluster.Addresses()
	d := &Deps{Config: cfg, NATS: new(jetstream.NATSInstance), Process: process.NewProcessContext()}
	tb.Cleanup(d.Process.ShutdownDendrite)
	js, connection := prepare(tb, d)
	tb.Cleanup(connection.Close)
	stream := cfg.Global.JetStream.Prefixed(jetstream.OutputRoomEvent)
	cluster.Replicate(tb, js, stream)
	return &feedRig{d, cluster, js, stream}
}

// prepare lets the host make its streams. The host would end the process while the cluster is not ready for them. The
// fork would do so also when it reconnects to such a cluster, which it may try until after the test. In these tests
// this ends one goroutine.
func prepare(tb testing.TB, d *Deps) (js nats.JetStreamContext, connection *nats.Conn) {
	tb.Helper()
	logrus.StandardLogger().ExitFunc = endGoroutine
	err := harness.Poll(harness.Within(tb), func(context.Context) error {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			js, connection = d.NATS.Prepare(d.Process, &d.Config.Global.JetStream)
		}()
		if <-ended; js == nil {
			return errors.New("the cluster takes no streams yet")
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return js, connection
}

func endGoroutine(int) { runtime.Goexit() }

// feed reads the stream by the module's own reader, which never ends.
func (r *feedRig) feed(tb testing.TB, read func(id string)) (ended <-chan struct{}) {
	tb.Helper()
	w := &watcher{
		read: func(m *nats.Msg) (string, bool) { return string(m.Data), true },
		changed: func(_ context.Context, id string) error {
			read(id)
			return nil
		},
	}
	if err := w.follow(r.Deps, jetstream.OutputRoomEvent, "Test", newLogger()); err != nil {
		tb.Fatal(err)
	}
	return nil
}

// tell adds an event to the stream.
func (r *feedRig) tell(tb testing.TB, id string) {
	tb.Helper()
	// A message that the lost server has swallowed is never answered: the next attempt sends it again.
	err := harness.Poll(harness.Within(tb), func(context.Context) error {
		_, err := r.js.Publish(r.stream, []byte(id), nats.MsgId(id), nats.AckWait(time.Second))
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// lose stops the server that leads the reader's consumer.
func (r *feedRig) lose(tb testing.TB) {
	tb.Helper()
	r.cluster.LoseLeader(tb, r.js, r.stream, r.Config.Global.JetStream.Durable("Test")+"Pull")
}

// TestFeedOutlivesNode: the module continues to read Dendrite's events when the NATS server that leads its consumer is
// lost. It misses no event before, during and after the loss. Dendrite's own helper would end this process, or read
// no more.
func TestFeedOutlivesNode(t *testing.T) {
	r, seen := newFeedRig(t), make(chan string, 100)
	r.feed(t, func(id string) { seen <- id })
	await := func(id string) {
		t.Helper()
		for {
			select {
			case got := <-seen:
				if got == id {
					return
				}
			case <-harness.Within(t).Done():
				t.Fatalf("%s never arrived", id)
			}
		}
	}
	r.tell(t, "before")
	await("before")
	r.lose(t)
	r.tell(t, "during")
	await("during")
	r.tell(t, "after")
	await("after")
}

// BenchmarkNATSLost counts the events that a reader misses when the server that leads its consumer is lost: Dendrite's
// helper, which ends the process, and the module's own reader.
func BenchmarkNATSLost(b *testing.B) {
	for _, reader := range []struct {
		name   string
		follow func(r *feedRig, tb testing.TB, read func(id string)) (ended <-chan struct{})
	}{{"helper", (*feedRig).help}, {"feed", (*feedRig).feed}} {
		b.Run("reader="+reader.name, func(b *testing.B) {
			for b.Loop() {
				const events = 100
				r, seen, all := newFeedRig(b), make(map[string]bool), make(chan struct{})
				ended := reader.follow(r, b, func(id string) {
					if seen[id] = true; len(seen) == events {
						close(all)
					}
				})
				for i := range events {
					if i == events/2 {
						r.lose(b)
					}
					r.tell(b, fmt.Sprint(i))
				}
				select {
				case <-all:
				case <-ended:
				case <-harness.Within(b).Done(): // the helper may also go on, and get nothing more
				}
				b.ReportMetric(float64(events-len(seen)), "missed")
			}
		})
	}
}

// help reads the stream by Dendrite's own helper, until that would end the process.
func (r *feedRig) help(tb testing.TB, read func(id string)) (ended <-chan struct{}) {
	tb.Helper()
	end := make(chan struct{})
	logrus.StandardLogger().ExitFunc = func(code int) {
		close(end)
		endGoroutine(code)
	}
	logrus.SetOutput(io.Discard) // lines of a log would disturb the table of benchmarks
	tb.Cleanup(func() {
		logrus.StandardLogger().ExitFunc = endGoroutine
		logrus.SetOutput(os.Stderr)
	})
	durable := r.Config.Global.JetStream.Durable("Test")
	err := jetstream.JetStreamConsumer(r.Process.Context(), r.js, r.stream, durable, 1,
		func(_ context.Context, m []*nats.Msg) bool {
			read(string(m[0].Data))
			return true
		}, nats.DeliverNew(), nats.ManualAck())
	if err != nil {
		tb.Fatal(err)
	}
	return end
}

// BenchmarkPublish measures how long NATS takes to acknowledge an event, in a stream on one server and on three.
func BenchmarkPublish(b *testing.B) {
	r := newFeedRig(b)
	for _, servers := range []int{1, 3} {
		stream := nats.StreamConfig{Name: fmt.Sprint("on", servers), Replicas: servers, Storage: nats.FileStorage}
		if _, err := r.js.AddStream(&stream); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("servers=%d", servers), func(b *testing.B) {
			for b.Loop() {
				if _, err := r.js.Publish(stream.Name, make([]byte, 1<<10)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(b.Elapsed().Seconds()*1e3/float64(b.N), "ms")
		})
	}
}
