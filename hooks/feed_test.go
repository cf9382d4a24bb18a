package hooks

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/process"
)

// TestFeedOutlivesNode: the module continues to read Dendrite's events when the NATS server that leads its consumer is
// lost. It misses no event before, during and after the loss. Dendrite's own helper would end this process.
func TestFeedOutlivesNode(t *testing.T) {
	cluster := harness.StartNATS(t)
	cfg := testConfig(t, "a.example")
	cfg.Global.JetStream.Matrix, cfg.Global.JetStream.DisableTLSValidation = &cfg.Global, false
	cfg.Global.JetStream.Addresses = cluster.Addresses()
	d := &Deps{Config: cfg, NATS: new(jetstream.NATSInstance), Process: process.NewProcessContext()}
	t.Cleanup(d.Process.ShutdownDendrite)
	js, _ := d.NATS.Prepare(d.Process, &cfg.Global.JetStream)
	stream := cfg.Global.JetStream.Prefixed(jetstream.OutputRoomEvent)
	cluster.Replicate(t, js, stream)

	seen := make(chan string, 100)
	w := &watcher{
		read: func(m *nats.Msg) (string, bool) { return string(m.Data), true },
		changed: func(_ context.Context, id string) error {
			seen <- id
			return nil
		},
	}
	if err := w.follow(d, jetstream.OutputRoomEvent, "Test", newLogger()); err != nil {
		t.Fatal(err)
	}
	tell := func(id string) {
		t.Helper()
		// A message that the lost server has swallowed is never answered: the next attempt sends it again.
		err := harness.Poll(harness.Within(t), func(context.Context) error {
			_, err := js.Publish(stream, []byte(id), nats.MsgId(id), nats.AckWait(time.Second))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
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
	tell("before")
	await("before")
	cluster.LoseLeader(t, js, stream, cfg.Global.JetStream.Durable("Test")+"Pull")
	tell("during")
	await("during")
	tell("after")
	await("after")
}
