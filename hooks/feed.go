package hooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
)

// feed reads a stream of Dendrite's for one durable consumer. It survives the loss of the NATS server that has the
// stream. Dendrite's own helper would end the homeserver, or read no more.
type feed struct {
	js           nats.JetStreamContext
	stream, name string
	log          *slog.Logger
	sub          *nats.Subscription // nil after a failure
}

// The waits of a feed.
const (
	feedPatience = 5 * time.Second // for a message, or an answer of NATS
	feedPause    = time.Second     // after a failure
)

// newFeed adds the consumer unless it exists. From then on, the stream keeps messages for it.
func newFeed(d *Deps, topic, name string, log *slog.Logger) (*feed, error) {
	cfg := &d.Config.Global.JetStream
	js, _ := d.NATS.Prepare(d.Process, cfg)
	f := &feed{js: js, stream: cfg.Prefixed(topic), name: cfg.Durable(name) + "Pull", log: log}
	return f, f.subscribe()
}

func (f *feed) subscribe() (err error) {
	// The NATS library would delete a consumer of its own at shutdown, together with its undelivered messages.
	_, err = f.js.AddConsumer(f.stream, &nats.ConsumerConfig{
		Durable: f.name, AckPolicy: nats.AckExplicitPolicy, DeliverPolicy: nats.DeliverNewPolicy,
	})
	if err != nil && !errors.Is(err, nats.ErrConsumerNameAlreadyInUse) {
		return fmt.Errorf("consumer of %s: %w", f.stream, err)
	}
	f.sub, err = f.js.PullSubscribe("", f.name, nats.Bind(f.stream, f.name), nats.ManualAck())
	return err
}

// follow passes the messages to handle, one after the other, until the context ends. If handle does not take a message,
// it comes again.
func (f *feed) follow(ctx context.Context, handle func(context.Context, *nats.Msg) (taken bool)) {
	down := false
	for ctx.Err() == nil {
		msg, err := f.next(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			if !down {
				f.log.WarnContext(ctx, "cannot read a stream of Dendrite's: trying again", "error", err)
			}
			f.drop()
			pause(ctx, feedPause)
		case down:
			f.log.InfoContext(ctx, "reads the stream of Dendrite's again")
		}
		down = err != nil
		if msg != nil {
			f.settle(ctx, msg, handle(ctx, msg))
		}
	}
	f.drop()
}

// next waits a while for a message. Nil is none.
func (f *feed) next(ctx context.Context) (*nats.Msg, error) {
	if f.sub == nil {
		if err := f.subscribe(); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, feedPatience)
	defer cancel()
	msgs, err := f.sub.Fetch(1, nats.Context(ctx))
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) {
		return nil, nil // nothing has happened
	}
	if err != nil || len(msgs) == 0 {
		return nil, err
	}
	return msgs[0], nil
}

// settle tells NATS whether a message was taken. NATS delivers it again if it hears nothing.
func (f *feed) settle(ctx context.Context, msg *nats.Msg, taken bool) {
	ctx, cancel := context.WithTimeout(ctx, feedPatience)
	defer cancel()
	if taken {
		_ = msg.AckSync(nats.Context(ctx))
		return
	}
	_ = msg.Nak(nats.Context(ctx))
}

// drop ends the subscription. The consumer stays and collects messages.
func (f *feed) drop() {
	if f.sub != nil {
		_ = f.sub.Unsubscribe() // it may have ended already
		f.sub = nil
	}
}

// pause waits for d, or until the context ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
