package hooks

import (
	"context"

	"github.com/matrix-org/dendrite/clientapi/producers"
	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/setup/jetstream"
)

// devices is federation.Local. It gives to-device events for local users to Dendrite's sync API.
type devices struct {
	producer *producers.SyncAPIProducer
	known    func(ctx context.Context, userID string) (ids map[string]bool, err error)
}

var _ federation.Local = (*devices)(nil)

func newDevices(d *Deps, known func(context.Context, string) (map[string]bool, error)) *devices {
	js := &d.Config.Global.JetStream
	stream, _ := d.NATS.Prepare(d.Process, js)
	return &devices{known: known, producer: &producers.SyncAPIProducer{
		TopicSendToDeviceEvent: js.Prefixed(jetstream.OutputSendToDeviceEvent),
		JetStream:              stream,
		ServerName:             d.Config.Global.ServerName,
		UserAPI:                d.Users,
	}}
}

// ToDevice implements federation.Local. Dendrite keeps no transaction ids for its own events. So an event that is
// repeated after an error arrives twice, and the client recognizes it by its number in the log. ToDevice drops events
// for logged-out devices, since Dendrite would keep them for ever.
func (d *devices) ToDevice(ctx context.Context, from, _ string, events []api.DeviceEvent) (arrived int, err error) {
	for i := range events {
		if err := d.send(ctx, from, &events[i]); err != nil {
			return i, err
		}
	}
	return len(events), nil
}

// send gives one event to the sync API.
func (d *devices) send(ctx context.Context, from string, e *api.DeviceEvent) error {
	ctx, cancel := context.WithTimeout(ctx, sendPatience) // NATS waits for a lost server until the context ends
	defer cancel()
	for user, ids := range e.Devices {
		known, err := d.known(ctx, user)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if !known[id] {
				continue
			}
			if err := d.producer.SendToDevice(ctx, federation.SenderID(from), user, id, e.Type, e.Content); err != nil {
				return err
			}
		}
	}
	return nil
}
