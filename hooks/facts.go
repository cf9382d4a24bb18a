package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/acl"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
)

// facts are what Dendrite's state of one room says at one time. They never change.
type facts struct {
	left    bool
	levels  roomLevels
	joined  map[string]int             // the keys are the joined users
	servers map[string]bool            // of joined users; "" is this server
	acl     *acl.ACL                   // nil for none
	state   map[string]json.RawMessage // the contents of the state events that the facts come from, by type
	inForce map[string]json.RawMessage
	size    int // in bytes
}

// roomFacts is delivery.Room. It is empty for a room of which this server never had the state.
type roomFacts struct {
	*facts
	room    string
	version roomVersion
	cache   *factCache
	asked   uint64 // the number of the room's news when Dendrite was asked
}

var _ delivery.Room = (*roomFacts)(nil)

// roomVersion identifies the state of a room. Dendrite never changes a state snapshot. It gives the same number to the
// same state, and writes the number in the transaction that writes the members. The zero value is no state.
type roomVersion struct {
	room  types.RoomNID
	state types.StateSnapshotNID
}

// roomPatience is the time for all questions about one room. A request may also wait for the questions of another one.
const roomPatience = 2 * hostPatience

// Room implements delivery.Rooms. It always asks Dendrite for the version of the room's state, which is one row of an
// index. Dendrite tells its stream of an event before it commits the event, and the stream tells this server later: the
// stream alone would leave a moment in which a kicked user still counts as joined.
func (r *rooms) Room(ctx context.Context, roomID string) (delivery.Room, error) {
	return r.factsAbout(ctx, roomID)
}

func (r *rooms) factsAbout(ctx context.Context, roomID string) (*roomFacts, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, roomPatience,
		fmt.Errorf("the homeserver did not answer within %s", roomPatience))
	defer cancel()
	id, err := spec.NewRoomID(roomID)
	if err != nil {
		return &roomFacts{facts: &facts{}, cache: &r.facts, room: roomID, asked: r.facts.newsOf(roomID)}, nil
	}
	if f, err := r.cached(ctx, *id); err != nil || f.facts != nil {
		return f, err
	}
	free, err := r.loading.Wait(ctx, roomID)
	if err != nil {
		return nil, context.Cause(ctx)
	}
	defer free()
	f, err := r.cached(ctx, *id) // another request may have loaded them
	if err != nil || f.facts != nil {
		return f, err
	}
	return f, r.load(ctx, *id, f)
}

// cached returns the facts in memory if they are those of the room's present state. Otherwise facts is nil.
func (r *rooms) cached(ctx context.Context, id spec.RoomID) (*roomFacts, error) {
	f := &roomFacts{cache: &r.facts, room: id.String(), asked: r.facts.newsOf(id.String())}
	var err error
	if f.version, err = r.version(ctx, id); err != nil {
		return nil, err
	}
	if f.version == (roomVersion{}) {
		f.facts = &facts{}
		return f, nil
	}
	f.facts = r.facts.get(f.room, f.version)
	return f, nil
}

func (r *rooms) version(ctx context.Context, id spec.RoomID) (roomVersion, error) {
	info, err := r.api.QueryRoomInfo(ctx, id)
	if err != nil || info == nil || info.IsStub() { // of a stub this server only has an invitation
		return roomVersion{}, err
	}
	return roomVersion{info.RoomNID, info.StateSnapshotNID()}, nil
}

// load reads the facts of f, and keeps them unless the room has changed meanwhile.
func (r *rooms) load(ctx context.Context, id spec.RoomID, f *roomFacts) (err error) {
	if f.facts, err = r.read(ctx, f.room); err != nil {
		return err
	}
	after, err := r.version(ctx, id)
	if err == nil && after == f.version {
		r.facts.put(f)
	}
	return err
}

// factEvents are the state events that the facts come from, besides those of members.
var factEvents = []string{
	spec.MRoomCreate, spec.MRoomPowerLevels, acl.EventType, api.EventPointer, api.EventSuccessors, api.EventGroup,
}

// read asks Dendrite for a room's facts. It does not ask for the events of the members, which are megabytes in a large
// room.
func (r *rooms) read(ctx context.Context, roomID string) (*facts, error) {
	question := rsapi.QueryLatestEventsAndStateRequest{RoomID: roomID}
	for _, t := range factEvents {
		question.StateToFetch = append(question.StateToFetch, gomatrixserverlib.StateKeyTuple{EventType: t})
	}
	var state rsapi.QueryLatestEventsAndStateResponse
	if err := r.api.QueryLatestEventsAndState(ctx, &question, &state); err != nil {
		return nil, err
	}
	var members rsapi.QuerySharedUsersResponse
	if err := r.api.QuerySharedUsers(ctx, &rsapi.QuerySharedUsersRequest{
		UserID:         federation.SenderID(string(r.config.ServerName)), // in no room
		IncludeRoomIDs: []string{roomID},
	}, &members); err != nil {
		return nil, err
	}
	events := make(map[string]*types.HeaderedEvent)
	for _, e := range state.StateEvents {
		events[e.Type()] = e
	}
	return r.factsOf(ctx, roomID, events, members.UserIDsToCount)
}

// factsOf makes facts of a room's state events, by type, and its joined users.
func (r *rooms) factsOf(
	ctx context.Context, roomID string, events map[string]*types.HeaderedEvent, joined map[string]int,
) (*facts, error) {
	levels, err := powerLevels(events)
	if err != nil {
		return nil, err
	}
	f := &facts{
		levels: *levels, joined: joined, servers: make(map[string]bool), state: make(map[string]json.RawMessage),
		inForce: make(map[string]json.RawMessage), size: entrySize,
	}
	for user := range joined {
		_, server, _ := strings.Cut(user, ":")
		f.servers[server] = true
		f.servers[""] = f.servers[""] || r.config.IsLocalServerName(spec.ServerName(server))
		f.size += memberSize + len(user)
	}
	f.left = !f.servers[""]
	for t, e := range events {
		f.state[t] = e.Content()
		f.size += parsedSize * len(e.Content())
	}
	if e := events[acl.EventType]; e != nil {
		content, err := lastGood(ctx, r.store, "server_acl/"+roomID, e.Content(), acl.Redacted(e.Content()))
		if err != nil {
			return nil, err
		}
		parsed := acl.Parse(content)
		f.acl = &parsed
	}
	return f, r.addInForce(ctx, roomID, f, events)
}

// addInForce adds the contents of the module's state events to the facts. An event counts whose sender may now send
// both such an event and the pointer. A redaction removes all content of the module's events, and Dendrite does not
// mark redacted events. So an event without content counts as redacted.
func (r *rooms) addInForce(
	ctx context.Context, roomID string, f *facts, events map[string]*types.HeaderedEvent,
) error {
	for _, t := range []string{api.EventPointer, api.EventSuccessors, api.EventGroup} {
		e := events[t]
		// A room that an earlier version bound has no level for the list of successors.
		need := max(f.levels.EventLevel(t, true), f.levels.EventLevel(api.EventPointer, true))
		if e == nil || f.left || f.levels.of(string(e.SenderID())) < need {
			continue
		}
		content, err := lastGood(ctx, r.store, t+"/"+roomID, e.Content(), acl.Redacted(e.Content()))
		if err != nil {
			return err
		}
		f.inForce[t] = content
	}
	return nil
}

// settings is the part of storage.Store that lastGood needs.
type settings interface {
	Setting(ctx context.Context, name string) (json.RawMessage, error)
	PutSetting(ctx context.Context, name string, value json.RawMessage) error
}

// lastGood stores the content of a state event under a name and returns it. For a redacted event it returns the stored
// content, so that the power to redact does not let anyone change a room's rules. Dendrite forgets that content. If
// this server never saw the event before its redaction, there is no content. The caller keeps other calls for the room
// away, so an older content never replaces a newer one.
func lastGood(
	ctx context.Context, store settings, name string, content json.RawMessage, redacted bool,
) (json.RawMessage, error) {
	stored, err := store.Setting(ctx, name)
	switch {
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return nil, err
	case redacted:
		return stored, nil
	case bytes.Equal(stored, content):
		return content, nil
	}
	return content, store.PutSetting(ctx, name, content)
}

// roomLevels are a room's power levels, and the creators who stand above them.
type roomLevels struct {
	gomatrixserverlib.PowerLevelContent
	creators []string
}

// powerLevels returns the levels of a room with these state events, or the specification's defaults for a room without
// levels.
func powerLevels(events map[string]*types.HeaderedEvent) (*roomLevels, error) {
	create := events[spec.MRoomCreate]
	if create == nil {
		return nil, errors.New("the room has no create event")
	}
	levels, err := levelsOf(events[spec.MRoomPowerLevels], string(create.SenderID()))
	return &roomLevels{levels, creators(create.SenderID(), create.Content())}, err
}

// levelsOf returns the levels in an m.room.power_levels event. Nil stands for a room without that event.
func levelsOf(event *types.HeaderedEvent, creator string) (gomatrixserverlib.PowerLevelContent, error) {
	if event != nil {
		return gomatrixserverlib.NewPowerLevelContentFromEvent(event.PDU)
	}
	none, err := newAuthEvents(nil)
	if err != nil {
		return gomatrixserverlib.PowerLevelContent{}, err
	}
	return gomatrixserverlib.NewPowerLevelContentFromAuthEvents(none, creator)
}

// of returns the power of a user.
func (l *roomLevels) of(user string) int64 {
	if slices.Contains(l.creators, user) {
		return math.MaxInt64
	}
	return l.UserLevel(spec.SenderID(user))
}

// creators lists the users who stand above all power levels, in rooms of version 12 or later. Of later versions, this
// code knows only that their names are numbers.
func creators(sender spec.SenderID, create json.RawMessage) []string {
	var content struct {
		Version    string   `json:"room_version"`
		Additional []string `json:"additional_creators"`
	}
	if json.Unmarshal(create, &content) != nil {
		return nil
	}
	if version, err := strconv.Atoi(content.Version); err != nil || version < 12 {
		return nil
	}
	return append(content.Additional, string(sender))
}

// Standing implements delivery.Room.
func (f *roomFacts) Standing(userID string) delivery.Standing {
	if f.version == (roomVersion{}) {
		return delivery.Standing{}
	}
	return delivery.Standing{
		Exists: true, Left: f.left, Joined: f.joined[userID] > 0, Power: f.levels.of(userID),
		PointerLevel: f.levels.EventLevel(api.EventPointer, true), KickLevel: f.levels.Kick,
	}
}

// NotJoined implements delivery.Room.
func (f *facts) NotJoined(userIDs []string) (missing []string) {
	for _, user := range userIDs {
		if f.joined[user] == 0 {
			missing = append(missing, user)
		}
	}
	return missing
}

// Joined implements delivery.Room.
func (f *facts) Joined() []string { return slices.Sorted(maps.Keys(f.joined)) }

// ServerJoined implements delivery.Room. The empty name is this server.
func (f *facts) ServerJoined(server string) bool { return f.servers[server] }

// Levels implements delivery.Room.
func (f *roomFacts) Levels() *policy.Levels {
	if f.version == (roomVersion{}) {
		return nil
	}
	users := make(map[string]int64, len(f.levels.Users)+len(f.levels.creators))
	maps.Copy(users, f.levels.Users)
	for _, user := range f.levels.creators {
		users[user] = math.MaxInt64
	}
	_, explicit := f.levels.Events[api.EventPointer]
	return &policy.Levels{
		Users: users, Default: f.levels.UsersDefault, Pointer: f.levels.EventLevel(api.EventPointer, true),
		Explicit: explicit, Left: f.left,
	}
}

// Denied implements delivery.Room. It does not use Dendrite's own matching, which is wrong: that one matches parts of
// names, and is case-sensitive.
func (f *facts) Denied(servers []string) []string {
	if f.acl == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(servers), f.acl.Allows)
}

// InForce implements delivery.Room.
func (f *facts) InForce(eventType string) json.RawMessage { return f.inForce[eventType] }

// Current implements delivery.Room.
func (f *roomFacts) Current() bool { return f.cache.newsOf(f.room) == f.asked }

// factCache holds the facts of rooms. When it is full, it drops the least recently used room.
type factCache struct {
	mu    sync.Mutex
	max   int // bytes
	used  int
	rooms *simplelru.LRU[string, *roomFacts]
	news  [4096]uint64 // the number of news of rooms, by hash: rooms share a number
	seed  maphash.Seed
}

// The bounds of the memory for facts, in bytes. The sizes are estimates: of a room, of a joined user without the name,
// and of a decoded event for each byte of its content.
const (
	maxFacts   = 64 << 20
	entrySize  = 1024
	memberSize = 64
	parsedSize = 4
)

func newFactCache(max int) factCache {
	rooms, _ := simplelru.NewLRU[string, *roomFacts](math.MaxInt, nil) // it fails only for a size below 1
	return factCache{max: max, rooms: rooms, seed: maphash.MakeSeed()}
}

// number returns the room's number of news. The caller holds the lock.
func (c *factCache) number(room string) *uint64 {
	return &c.news[maphash.String(c.seed, room)%uint64(len(c.news))]
}

func (c *factCache) newsOf(room string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *c.number(room)
}

// tell notes that Dendrite changes the state of a room. It drops the room's facts: a state can come back, and facts
// that were read in between would count as those of the state before.
func (c *factCache) tell(room string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*c.number(room)++
	c.drop(room)
}

// get returns the facts of a room in a version of its state, or nil.
func (c *factCache) get(room string, v roomVersion) *facts {
	c.mu.Lock()
	defer c.mu.Unlock()
	f, ok := c.rooms.Get(room)
	if !ok || f.version != v {
		return nil
	}
	return f.facts
}

// put keeps facts, unless there was news while they were read.
func (c *factCache) put(f *roomFacts) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *c.number(f.room) != f.asked {
		return
	}
	c.drop(f.room)
	c.rooms.Add(f.room, f)
	for c.used += f.size; c.used > c.max; {
		oldest, _, _ := c.rooms.GetOldest()
		c.drop(oldest)
	}
}

func (c *factCache) drop(room string) {
	if f, ok := c.rooms.Peek(room); ok {
		c.used -= f.size
		c.rooms.Remove(room)
	}
}
