package hooks

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats.go"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/acl"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/setup/jetstream"
	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// The names of the consumers. Streams keep them between restarts; docs/operator.md says how to remove them.
const (
	roomConsumer   = "MimiportRoomServerConsumer"
	deviceConsumer = "MimiportKeyChangeConsumer"
)

// watchRooms follows Dendrite's room events until the homeserver shuts down: changed is told of rooms that somebody has
// left, whose group is said to be elsewhere, or whose ACL or list of successors is new.
func watchRooms(d *Deps, changed func(ctx context.Context, roomID string) error, log *slog.Logger) error {
	failed := func(id string, err error) {
		log.Error("a room's change could not be noted", "room_id", id, "error", err)
	}
	w := &watcher{changedRoom, changed, failed}
	return w.follow(d, jetstream.OutputRoomEvent, roomConsumer, log)
}

// watchDevices is watchRooms for changes of the device keys of users of this server and of others.
func watchDevices(d *Deps, changed func(ctx context.Context, userID string) error, log *slog.Logger) error {
	failed := func(id string, err error) {
		log.Error("a change of devices was not noted", "user_id", id, "error", err)
	}
	w := &watcher{changedUser, changed, failed}
	return w.follow(d, jetstream.OutputKeyChangeEvent, deviceConsumer, log)
}

// watcher tells the Delivery Service of changes that a stream of Dendrite's tells of.
type watcher struct {
	read    func(*nats.Msg) (id string, changed bool) // what has changed, by a message
	changed func(ctx context.Context, id string) error
	failed  func(id string, err error)
}

func (w *watcher) follow(d *Deps, topic, name string, log *slog.Logger) error {
	f, err := newFeed(d, topic, name, log)
	if err != nil {
		return err
	}
	go f.follow(d.Process.Context(), w.onMessage)
	return nil
}

// onMessage reports whether the message is dealt with; another one is delivered again at once.
func (w *watcher) onMessage(ctx context.Context, msg *nats.Msg) bool {
	id, ok := w.read(msg)
	if !ok {
		return true
	}
	err := w.changed(ctx, id)
	if err == nil {
		return true
	}
	w.failed(id, err)
	pause(ctx, time.Second) // so that a database that is down is not asked thousands of times a second
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

// changedUser is the user whose devices, or their keys, have changed. Whether a device is there, Dendrite's events do
// not tell: a new one without keys looks like a deleted one.
func changedUser(msg *nats.Msg) (userID string, changed bool) {
	var m userapi.DeviceMessage
	if json.Unmarshal(msg.Data, &m) != nil || m.Type != userapi.TypeDeviceKeyUpdate || m.DeviceKeys == nil {
		return "", false
	}
	return m.DeviceKeys.UserID, true
}
