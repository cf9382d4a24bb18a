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

// watchRooms follows Dendrite's room events until the homeserver shuts down. It calls tell for a room whose state
// changes. It calls changed for a room if a member left, or if the room's pointer, server ACL or list of successors
// changed.
func watchRooms(
	d *Deps, tell func(roomID string), changed func(ctx context.Context, roomID string) error, log *slog.Logger,
) error {
	failed := func(id string, err error) {
		log.Error("cannot record the change of a room", "room_id", id, "error", err)
	}
	read := func(msg *nats.Msg) (roomID string, ok bool) {
		event := roomEvent(msg)
		if event == nil {
			return "", false
		}
		roomID = event.Event.RoomID().String()
		if changesState(event) {
			tell(roomID)
		}
		return roomID, changesGroups(event)
	}
	w := &watcher{read, changed, failed}
	return w.follow(d, jetstream.OutputRoomEvent, roomConsumer, log)
}

// watchDevices calls changed for each user, local or remote, whose device keys changed.
func watchDevices(d *Deps, changed func(ctx context.Context, userID string) error, log *slog.Logger) error {
	failed := func(id string, err error) {
		log.Error("cannot record a change of devices", "user_id", id, "error", err)
	}
	w := &watcher{changedUser, changed, failed}
	return w.follow(d, jetstream.OutputKeyChangeEvent, deviceConsumer, log)
}

// watcher tells the Delivery Service of changes that a stream of Dendrite's tells of.
type watcher struct {
	read    func(*nats.Msg) (id string, changed bool) // reads the change from a message
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

// onMessage handles a message, and reports whether it succeeded. NATS delivers a failed message again at once.
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
	pause(ctx, time.Second) // else a database that is down would get thousands of queries per second
	return false
}

// watched are the types of the state events that concern a room's group.
var watched = []string{api.EventPointer, api.EventSuccessors, acl.EventType}

// roomEvent returns the new event of a room that a message tells of. Nil is none, or one that does not parse.
func roomEvent(msg *nats.Msg) *rsapi.OutputNewRoomEvent {
	if rsapi.OutputType(msg.Header.Get(jetstream.RoomEventType)) != rsapi.OutputTypeNewRoomEvent {
		return nil
	}
	var out rsapi.OutputEvent
	if json.Unmarshal(msg.Data, &out) != nil || out.NewRoomEvent == nil || out.NewRoomEvent.Event == nil {
		return nil
	}
	return out.NewRoomEvent
}

// changesState reports whether an event changes the state of its room. An event that joins two branches of the room's
// history may do so without being a state event.
func changesState(e *rsapi.OutputNewRoomEvent) bool {
	return e.RewritesState || len(e.AddsStateEventIDs)+len(e.RemovesStateEventIDs) > 0
}

// changesGroups reports whether an event may remove members from the room, or change its pointer, successors or server
// ACL.
func changesGroups(e *rsapi.OutputNewRoomEvent) bool {
	switch {
	case e.RewritesState, slices.Contains(watched, e.Event.Type()):
		return true
	case e.Event.Type() != spec.MRoomMember:
		return false
	}
	membership, err := e.Event.Membership()
	return err == nil && membership != spec.Join && membership != spec.Invite
}

// changedUser returns the user whose devices or device keys changed. Dendrite's events do not tell whether a device
// exists: a new device without keys looks like a deleted one.
func changedUser(msg *nats.Msg) (userID string, changed bool) {
	var m userapi.DeviceMessage
	if json.Unmarshal(msg.Data, &m) != nil || m.Type != userapi.TypeDeviceKeyUpdate || m.DeviceKeys == nil {
		return "", false
	}
	return m.DeviceKeys.UserID, true
}
