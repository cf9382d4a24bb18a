package clientapi_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/mux"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api/openapitest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

const (
	here     = "hs.example"
	other    = "ds.example"
	alice    = "@alice:hs.example"
	roomID   = "!room"
	beforeID = "!before"
)

// group is a group id that the other Delivery Service has made.
var (
	pre   = mimiport.GroupIDPreimage{CreatingServer: other, RoomID: roomID, Nonce: mimiport.Nonce{1}}
	group = pre.GroupID()
)

func preimage() *api.Preimage {
	return &api.Preimage{CreatingServer: pre.CreatingServer, RoomID: pre.RoomID, Nonce: pre.Nonce[:]}
}

// service is a Delivery Service with fixed answers. Its other methods are not called.
type service struct {
	api.API
	reserved int
	preimage *api.Preimage
	bound    *api.GroupResponse
	status   *api.MigrationStatus
	lineage  *mimiport.Lineage
	err      error
}

func (s *service) Drift(context.Context, api.Caller, []byte) (*api.Drift, error) {
	return &api.Drift{Leaves: []api.DriftLeaf{}, WithoutLeaf: []string{}, Unasked: []string{}}, nil
}

func (s *service) Host(context.Context, api.Caller, []byte) (*api.HostResponse, error) {
	encoded, err := s.lineage.Marshal()
	return &api.HostResponse{GroupID: group, Lineage: encoded}, err
}

func (s *service) ReserveGroup(
	_ context.Context, _ api.Caller, _ *api.ReserveGroupRequest,
) (*api.ReserveGroupResponse, error) {
	s.reserved++
	return &api.ReserveGroupResponse{GroupID: group, Preimage: *s.preimage}, s.err
}

func (s *service) RequireReserver(context.Context, api.Caller, []byte) error { return s.err }

func (s *service) BindGroup(context.Context, api.Caller, []byte, *api.BindGroupRequest) (*api.GroupResponse, error) {
	return s.bound, s.err
}

func (s *service) Migration(context.Context, api.Caller, mimiport.MigrationID) (*api.MigrationStatus, error) {
	return s.status, s.err
}

func (s *service) InitMigration(
	context.Context, api.Caller, mimiport.MigrationID, *api.MigrationInitRequest,
) (*api.MigrationStatus, error) {
	return s.status, s.err
}

func (s *service) ConfirmMigration(
	context.Context, api.Caller, mimiport.MigrationID, *api.SignedRequest,
) (*api.MigrationStatus, error) {
	return s.status, s.err
}

// rooms is one room. It records the events sent by type. Sending fails once for each type in fail.
type rooms struct {
	delivery.Rooms
	standing delivery.Standing
	state    map[string]json.RawMessage
	before   map[string]json.RawMessage // of the room beforeID
	sent     []string
	fail     map[string]error
}

func (r *rooms) Room(_ context.Context, room string) (delivery.Room, error) {
	if room != roomID {
		return member{}, nil
	}
	return member{standing: r.standing}, nil
}

// member is a room in which alice has a place.
type member struct {
	delivery.Room
	standing delivery.Standing
}

func (m member) Standing(user string) delivery.Standing {
	if user != alice {
		return delivery.Standing{}
	}
	return m.standing
}

func (r *rooms) State(_ context.Context, room, eventType string) (json.RawMessage, error) {
	switch room {
	case roomID:
		return r.state[eventType], nil
	case beforeID:
		return r.before[eventType], nil
	}
	return nil, nil
}

func (r *rooms) SendState(_ context.Context, room, user, eventType string, content any) error {
	if err := r.fail[eventType]; err != nil {
		delete(r.fail, eventType)
		return err
	}
	if room != roomID || user != alice {
		return fmt.Errorf("sent to %s as %s", room, user)
	}
	raw, err := json.Marshal(content)
	r.state[eventType] = raw
	r.sent = append(r.sent, eventType)
	return err
}

// key makes a server's signing key.
func key(server string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(server))
	return ed25519.NewKeyFromSeed(seed[:])
}

// now is the time of the tests.
var now = time.Unix(1_700_000_000, 0)

// keyIDs has the key ids of both servers.
var keyIDs = map[string]string{here: "ed25519:t", other: "ed25519:s"}

// online returns the published keys of both servers.
func online() *prooftest.Keys {
	k := &prooftest.Keys{Published: map[string][]byte{}}
	for server, id := range keyIDs {
		k.Published[server] = prooftest.KeyObject(server, prooftest.Pair{ID: id, Key: key(server), Until: now.Add(time.Hour)})
	}
	return k
}

// world is a homeserver with a Delivery Service, another Delivery Service, and a room.
type world struct {
	t             *testing.T
	local, remote *service
	rooms         *rooms
	now           time.Time
	moves         *delivery.Service // its outbox has the announcements
	hold          bool              // the outbox does nothing after a call
	keys          *prooftest.Keys
	log           bytes.Buffer
	router        http.Handler // does not check requests against openapi.yaml
	handler       http.Handler
	asked         []string // "FROM → SERVER" for each remote service
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, local: &service{preimage: preimage()}, remote: &service{preimage: preimage()}, now: now}
	w.keys = online()
	w.rooms = &rooms{
		standing: delivery.Standing{Exists: true, Joined: true, Power: 100, PointerLevel: 50},
		state: map[string]json.RawMessage{
			"m.room.power_levels": json.RawMessage(`{"users":{"@alice:hs.example":100},"events":{"m.room.name":50}}`),
		},
		fail: map[string]error{},
	}
	services := clientapi.Services{
		IsLocal: func(server string) bool { return server == here },
		Local:   w.local,
		Remote: func(from, server string) api.API {
			w.asked = append(w.asked, from+" → "+server)
			return w.remote
		},
	}
	w.moves = delivery.New(delivery.Deps{
		Server: here, Store: memory.New(), Rooms: w.rooms, Now: func() time.Time { return w.now },
		Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	})
	home := &clientapi.Home{
		Rooms: w.rooms, Moves: w.moves, Keys: w.keys, Now: func() time.Time { return now },
		Log: slog.New(slog.NewTextHandler(&w.log, nil)),
	}
	auth := func(*http.Request) (api.Caller, error) { return api.Caller{UserID: alice, Server: here}, nil }
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	edge.Mount(router.PathPrefix(clientapi.PathPrefix).Subrouter(), clientapi.Routes(services, home, 1<<20), auth,
		edge.NewBodies(256<<20), home.Log)
	w.router, w.handler = router, openapitest.New(t).Handler(router)
	return w
}

// call sends a request to a Delivery Service and returns the status and the error code.
func (w *world) call(server, method, path string, body any) (int, string) {
	w.t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		w.t.Fatal(err)
	}
	r := httptest.NewRequest(method, clientapi.PathPrefix+"/ds/"+url.PathEscape(server)+path, bytes.NewReader(data))
	if body == nil {
		r = httptest.NewRequest(method, clientapi.PathPrefix+"/ds/"+url.PathEscape(server)+path, nil)
	}
	r.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	w.handler.ServeHTTP(rec, r)
	if !w.hold {
		w.announce()
	}
	var e struct {
		Code string `json:"errcode"`
	}
	_ = json.Unmarshal(rec.Body.Bytes(), &e)
	return rec.Code, e.Code
}

// waiting lists the announcements that the outbox has to send.
func (w *world) waiting() []storage.Row {
	w.t.Helper()
	rows, _, err := w.moves.Store.Due(w.t.Context(), w.now, 10)
	if err != nil {
		w.t.Fatal(err)
	}
	return rows
}

// announce lets the outbox send the announcements until none is left, or one fails.
func (w *world) announce() {
	w.t.Helper()
	for {
		rows := w.waiting()
		if len(rows) == 0 || w.moves.Do(w.t.Context(), rows[0]) != nil {
			return
		}
	}
}

func (w *world) expect(name string, status int, code string) func(int, string) {
	return func(gotStatus int, gotCode string) {
		w.t.Helper()
		if gotStatus != status || gotCode != code {
			w.t.Errorf("%s: got %d %s, want %d %s", name, gotStatus, gotCode, status, code)
		}
	}
}

func (w *world) ok(name string) func(int, string) { return w.expect(name, 200, "") }

func (w *world) expectSent(types ...string) {
	w.t.Helper()
	if !slices.Equal(w.rooms.sent, types) {
		w.t.Errorf("sent %v, want %v", w.rooms.sent, types)
	}
	w.rooms.sent = nil
}

func (w *world) expectState(eventType, want string) {
	w.t.Helper()
	var got, exp any
	if err := errors.Join(json.Unmarshal(w.rooms.state[eventType], &got), json.Unmarshal([]byte(want), &exp)); err != nil {
		w.t.Fatal(err)
	}
	if diff := cmp.Diff(exp, got); diff != "" {
		w.t.Error(eventType, diff)
	}
}

// The caller must have reserved the id. The server checks this before it reads the group's state.
func TestBindIsAskedBeforeItIsRead(t *testing.T) {
	w := newWorld(t)
	w.local.err = mimiport.Errorf("load group", mimiport.KindUnknownGroup, "none")
	body := strings.NewReader("{}")
	rec := httptest.NewRecorder()
	uri := clientapi.PathPrefix + "/ds/" + here + "/groups/AAAA"
	w.router.ServeHTTP(rec, httptest.NewRequest(http.MethodPut, uri, body))
	if rec.Code != http.StatusNotFound || body.Len() != len("{}") {
		t.Errorf("got %d, %d bytes left", rec.Code, body.Len())
	}
}

func TestServerName(t *testing.T) {
	for server, want := range map[string]struct {
		status int
		code   string
	}{
		here:                     {200, ""},
		other:                    {200, ""},
		other + ":8448":          {502, "IO.GITHUB.MIMIPORT.M_PEER_UNREACHABLE"}, // this server made another id
		"a/b":                    {400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"},
		"user@ds.example":        {400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"},
		"10.0.0.1:8008":          {403, "M_FORBIDDEN"},
		"[::1]":                  {403, "M_FORBIDDEN"},
		strings.Repeat("a", 300): {400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"},
	} {
		w := newWorld(t)
		w.expect(server, want.status, want.code)(w.call(server, "POST", "/groups", &api.ReserveGroupRequest{RoomID: roomID}))
		reached := want.status == 200 || want.status == 502
		if reached && server != here && !slices.Equal(w.asked, []string{here + " → " + server}) {
			t.Errorf("asked %v", w.asked)
		}
		if server == here && w.local.reserved != 1 {
			t.Error("the local service was not called")
		}
	}
}
