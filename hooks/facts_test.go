package hooks

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
)

// countedRooms is a room server that counts how often it is asked for members, and calls during before it answers.
type countedRooms struct {
	rsapi.RoomserverInternalAPI
	asked  int
	during func()
}

func (c *countedRooms) QuerySharedUsers(
	ctx context.Context, q *rsapi.QuerySharedUsersRequest, a *rsapi.QuerySharedUsersResponse,
) error {
	c.asked++
	if c.during != nil {
		c.during()
	}
	return c.RoomserverInternalAPI.QuerySharedUsers(ctx, q, a)
}

// counted returns rooms that count questions. No stream tells them of changes.
func (h *homeserver) counted() (*rooms, *countedRooms) {
	r, c := h.rooms(), &countedRooms{RoomserverInternalAPI: h.Rooms}
	r.api = c
	return r, c
}

// TestFactsAreKept: this server asks for a room's facts once, also after messages in the room. Everything that the
// homeserver has accepted counts from then on, although no stream tells of it: a kick, a level, a server ACL.
func TestFactsAreKept(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice, bob := s.register(t, "alice"), s.register(t, "bob")
	room := newRoom(t, alice)
	join(t, alice, bob, room)
	r, asked := s.counted()
	unchanged := func(times int) {
		t.Helper()
		for range 3 {
			_, err := alice.Send(t.Context(), room, "m.room.message", map[string]string{"msgtype": "m.text", "body": "x"})
			wantNone(t, err)
			factsOf(t, r, room)
		}
		if asked.asked != times {
			t.Errorf("asked %d times, want %d", asked.asked, times)
		}
	}
	unchanged(1)
	wantNone(t, alice.SetPowerLevel(t.Context(), room, bob.ID, 60))
	if st := standing(t, r, room, bob.ID); st.Power != 60 {
		t.Errorf("after the change: %+v", st)
	}
	setACL(t, alice, room, map[string]any{"allow": []string{"good.example"}})
	if denied := factsOf(t, r, room).Denied(aclServers); len(denied) != 3 {
		t.Errorf("after the ACL: %q", denied)
	}
	wantNone(t, alice.Kick(t.Context(), room, bob.ID))
	if st := standing(t, r, room, bob.ID); st.Joined {
		t.Errorf("after the kick: %+v", st)
	}
	unchanged(4)
}

// TestStateIsKept: the contents of the state events that the facts come from are kept too, and those of a new state
// count at once.
func TestStateIsKept(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice := s.register(t, "alice")
	room := newRoom(t, alice)
	r, asked := s.counted()
	for term := range 2 {
		want := fmt.Sprintf(`{"term":%d}`, term)
		wantNone(t, alice.SetState(t.Context(), room, api.EventPointer, json.RawMessage(want)))
		for range 3 {
			if got, err := r.State(t.Context(), room, api.EventPointer); err != nil || string(got) != want {
				t.Errorf("got %s, %v, want %s", got, err, want)
			}
		}
		if asked.asked != term+1 {
			t.Errorf("term %d: asked %d times", term, asked.asked)
		}
	}
	if got, err := r.State(t.Context(), room, api.EventGroup); err != nil || got != nil {
		t.Errorf("no binding: %s, %v", got, err)
	}
	if got, err := r.State(t.Context(), room, "m.room.join_rules"); err != nil || got == nil {
		t.Errorf("an event without facts: %s, %v", got, err)
	}
}

// TestChangeWhileFactsAreRead: facts that may be of two states are not kept.
func TestChangeWhileFactsAreRead(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice, bob := s.register(t, "alice"), s.register(t, "bob")
	room := newRoom(t, alice)
	join(t, alice, bob, room)
	r, asked := s.counted()
	asked.during = func() {
		asked.during = nil
		wantNone(t, alice.SetPowerLevel(t.Context(), room, bob.ID, 60))
	}
	factsOf(t, r, room)
	if st := standing(t, r, room, bob.ID); st.Power != 60 || asked.asked != 2 {
		t.Errorf("after the change: %+v, asked %d times", st, asked.asked)
	}
}

// TestNewsOfARoom: facts are current until the stream tells of a change. News while the facts are read makes this
// server read them again: a state that comes back has its former number.
func TestNewsOfARoom(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice := s.register(t, "alice")
	room := newRoom(t, alice)
	r, asked := s.counted()
	before := factsOf(t, r, room)
	if !before.Current() {
		t.Error("facts are old at once")
	}
	r.facts.tell(room)
	if before.Current() || !factsOf(t, r, room).Current() {
		t.Error("the news did not arrive, or stayed")
	}
	asked.during = func() { r.facts.tell(room) }
	for range 2 {
		r.facts.tell(room)
		factsOf(t, r, room)
	}
	asked.during, asked.asked = nil, 0
	factsOf(t, r, room)
	if asked.asked != 1 {
		t.Errorf("asked %d times", asked.asked)
	}
}

// TestStreamTells: the homeserver's stream tells of each change of a room's state, and of nothing else.
func TestStreamTells(t *testing.T) {
	s := start(t, "s.example", newFabric())
	alice := s.register(t, "alice")
	room := newRoom(t, alice)
	other := newRoom(t, alice)
	told := make(chan string, 100)
	changed := func(context.Context, string) error { return nil }
	wantNone(t, watchRooms(&s.Deps, func(room string) { told <- room }, changed, newLogger()))
	_, err := alice.Send(t.Context(), room, "m.room.message", map[string]string{"msgtype": "m.text", "body": "x"})
	wantNone(t, err)
	for _, want := range []string{other, room} {
		setACL(t, alice, want, map[string]any{"allow": []string{"*"}})
		if got := <-told; got != want {
			t.Errorf("told of %s, want %s", got, want)
		}
	}
}

// TestFactCache: the facts in memory stay within their bound, and the least recently used go first.
func TestFactCache(t *testing.T) {
	c := newFactCache(2 * entrySize)
	v := roomVersion{1, 1}
	put := func(room string, size int) {
		c.put(&roomFacts{facts: &facts{size: size}, room: room, version: v, asked: c.newsOf(room)})
	}
	kept := func() (rooms string) {
		for _, room := range []string{"a", "b", "c", "large"} {
			if _, ok := c.rooms.Peek(room); ok {
				rooms += room
			}
		}
		return rooms
	}
	put("a", entrySize)
	put("b", entrySize)
	c.get("a", v)
	put("c", entrySize)
	if kept() != "ac" || c.used != 2*entrySize {
		t.Errorf("kept %s of %d bytes", kept(), c.used)
	}
	if c.get("a", roomVersion{1, 2}) != nil {
		t.Error("facts count for another state")
	}
	put("large", 3*entrySize)
	if kept() != "" || c.used != 0 {
		t.Errorf("kept %s of %d bytes", kept(), c.used)
	}
}
