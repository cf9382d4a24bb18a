package hooks

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/internal/cpu"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
)

// forgetful is a room server whose rooms always seem to have changed while it is on. Then the module keeps no facts.
type forgetful struct {
	rsapi.RoomserverInternalAPI
	on *atomic.Bool
	n  *atomic.Int64
}

func (f forgetful) QueryRoomInfo(ctx context.Context, room spec.RoomID) (*types.RoomInfo, error) {
	info, err := f.RoomserverInternalAPI.QueryRoomInfo(ctx, room)
	if info != nil && f.on.Load() {
		info.SetStateSnapshotNID(types.StateSnapshotNID(-f.n.Add(1)))
	}
	return info, err
}

// BenchmarkMessage sends application messages through the client API, and delivers each to their sender. It reports the
// processor time of a message, in a room of 2 and in one of 300, with kept facts and without. One operation is one
// message of each of the four kinds.
func BenchmarkMessage(b *testing.B) {
	s := start(b, "s.example", newFabric())
	asks := forgetful{s.Rooms, new(atomic.Bool), new(atomic.Int64)}
	s.Deps.Rooms = asks
	if err := plug(b, s, "  policy: {device_keys: published}\n  requests_per_second: {user: 0}\n"); err != nil {
		b.Fatal(err)
	}
	small, large := newChat(b, s, 2), newChat(b, s, 300)
	harness.Rest(b, os.Getpid()) // the host is busy with 300 new users
	for b.Loop() {
		for _, c := range []*chat{small, large} {
			for how, asked := range map[string]bool{"kept": false, "asked": true} {
				asks.on.Store(asked)
				c.say(b) // loads the group and the facts
				c.drain(b)
				b.ReportMetric(float64(c.measure(b).Microseconds()), fmt.Sprintf("µs-%s-%d", how, c.members))
			}
		}
	}
	b.ReportMetric(0, "ns/op")
}

// chat is a group of two devices of one user, in a room.
type chat struct {
	*homeserver
	members int // of the room
	token   string
	path    string // of the group's messages
	group   *mlstest.Group
}

func newChat(b *testing.B, s *homeserver, members int) *chat {
	alice := s.register(b, fmt.Sprint("alice", members))
	room := newRoom(b, alice)
	public := map[string]string{"join_rule": "public"}
	if err := alice.SetState(b.Context(), room, "m.room.join_rules", public); err != nil {
		b.Fatal(err)
	}
	for i := range members - 1 {
		if err := s.register(b, fmt.Sprintf("user%d-%d", members, i)).Join(b.Context(), room, s.Name); err != nil {
			b.Fatal(err)
		}
	}
	var reserved api.ReserveGroupResponse
	base := clientapi.PathPrefix + "/ds/" + s.Name + "/groups"
	err := alice.Do(b.Context(), http.MethodPost, base, &api.ReserveGroupRequest{RoomID: room}, &reserved)
	if err != nil {
		b.Fatal(err)
	}
	c := &chat{homeserver: s, members: members, token: alice.Token}
	c.group = mlstest.New(mlstest.Options{GroupID: reserved.GroupID, Members: [][]byte{
		mlstest.Identity(alice.ID, alice.DeviceID), mlstest.Identity(alice.ID, "OTHER"),
	}})
	path := base + "/" + url.PathEscape(base64.RawURLEncoding.EncodeToString(reserved.GroupID))
	bind := &api.BindGroupRequest{Protocol: "mls10", GroupInfo: c.group.GroupInfo(), RatchetTree: c.group.RatchetTree()}
	if err := alice.Do(b.Context(), http.MethodPut, path, bind, nil); err != nil {
		b.Fatal(err)
	}
	c.path = path + "/messages"
	return c
}

// say sends a message of 1 KiB.
func (c *chat) say(b *testing.B) {
	body, err := json.Marshal(&api.SubmitRequest{Message: c.group.Application(nil, 1<<10)})
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, c.path, bytes.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+c.token)
	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		b.Fatal(w.Code, w.Body)
	}
}

// measure returns the processor time of a message with its delivery.
func (c *chat) measure(b *testing.B) time.Duration {
	const messages = 200
	begin := cpu.Time()
	for range messages {
		c.say(b)
	}
	c.drain(b)
	return (cpu.Time() - begin) / messages
}

// drain waits until all messages are delivered.
func (c *chat) drain(b *testing.B) {
	store, err := sqlite.Open(b.Context(), "file:"+filepath.Join(filepath.Dir(c.ConfigPath), "mimi.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		rows, err := store.Outbox(b.Context(), storage.RowKey{}, 1)
		if err != nil {
			b.Fatal(err)
		}
		if len(rows) == 0 {
			break
		}
		<-tick.C
	}
	c.quiesce(b)
}
