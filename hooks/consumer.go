package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats.go"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/acl"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/setup/jetstream"
)

// durableName is the consumer's name. It is kept by the stream between restarts; docs/operator.md says how to remove it.
const durableName = "MimiportRoomServerConsumer"

// roomWatcher tells the Delivery Service of rooms that somebody has left, whose group is said to be elsewhere, or whose
// ACL or list of successors is new.
type roomWatcher struct {
	changed func(ctx context.Context, roomID string) error
	log     *slog.Logger
}

// watchRooms follows Dendrite's room events until the homeserver shuts down.
func watchRooms(d *Deps, changed func(ctx context.Context, roomID string) error, log *slog.Logger) error {
	cfg := &d.Config.Global.JetStream
	js, _ := d.NATS.Prepare(d.Process, cfg)
	stream, durable := cfg.Prefixed(jetstream.OutputRoomEvent), cfg.Durable(durableName)
	// One that the library made would be deleted at shutdown, with what it had not delivered yet.
	_, err := js.AddConsumer(stream, &nats.ConsumerConfig{
		Durable: durable + "Pull", AckPolicy: nats.AckExplicitPolicy, DeliverPolicy: nats.DeliverNewPolicy,
	})
	if err != nil && !errors.Is(err, nats.ErrConsumerNameAlreadyInUse) {
		return err
	}
	w := &roomWatcher{changed, log}
	return jetstream.JetStreamConsumer(d.Process.Context(), js, stream, durable, 1, w.onMessage, nats.Bind(stream, durable+"Pull"), nats.ManualAck())
}

// onMessage reports whether the message is dealt with; another one is delivered again at once.
func (w *roomWatcher) onMessage(ctx context.Context, msgs []*nats.Msg) bool {
	roomID, ok := changedRoom(msgs[0])
	if !ok {
		return true
	}
	err := w.changed(ctx, roomID)
	if err == nil {
		return true
	}
	w.log.Error("a room's change could not be noted", "room_id", roomID, "error", err)
	select { // so that a database that is down is not asked thousands of times a second
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
	return false
}

// watched are the types of the state events that say something of a room's group.
var watched = []string{api.EventPointer, api.EventSuccessors, acl.EventType}

// changedRoom is the room of an event by which members may have left it, or its pointer, successors or server ACL
// changed. An event that cannot be read is of no concern here.
func changedRoom(msg *nats.Msg) (roomID string, changed bool) {
	if rsapi.OutputType(msg.Header.Get(jetstream.RoomEventType)) != rsapi.OutputTypeNewRoomEvent {
		return "", false
	}
	var out rsapi.OutputEvent
	if json.Unmarshal(msg.Data, &out) != nil || out.NewRoomEvent == nil || out.NewRoomEvent.Event == nil {
		return "", false
	}
	event := out.NewRoomEvent
	roomID = event.Event.RoomID().String()
	switch {
	case event.RewritesState, slices.Contains(watched, event.Event.Type()):
		return roomID, true
	case event.Event.Type() != spec.MRoomMember:
		return "", false
	}
	membership, err := event.Event.Membership()
	return roomID, err == nil && membership != spec.Join && membership != spec.Invite
}
