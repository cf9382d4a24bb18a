// Package ui drives the operator's page in a real browser, against the admin API of a Delivery Service.
package ui

import (
	"context"
	"flag"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/mux"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/internal/needs"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

var screenshots = flag.Bool("screenshots", false, "write the screenshots in docs/ui again")

const (
	serverA, serverB = "a.example", "b.example"
	alice, bob       = "@alice:a.example", "@bob:b.example"
	carol            = "@carol:a.example"
)

// TestPage: in a browser, the page shows what the admin API has, changes the policy, and says so when the server is
// slow, down or refuses. It keeps the token in memory alone.
func TestPage(t *testing.T) {
	node, browser := needs.Client(t), needs.Chromium(t)
	w := newWorld(t)
	faults := &faults{mode: "good"}
	server := httptest.NewServer(faults.around(routes(w)))
	t.Cleanup(server.Close)
	t.Cleanup(faults.end)
	drive := exec.CommandContext(t.Context(), node, "drive.mjs", server.URL)
	drive.Env = append(os.Environ(), "CHROMIUM="+browser)
	drive.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if *screenshots {
		drive.Env = append(drive.Env, "SCREENSHOTS=../../docs/ui")
	}
	if out, err := drive.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// newWorld makes two servers. A has 30 groups. One of its groups has moved to B, and one is frozen since B is out of
// reach.
func newWorld(t *testing.T) *deliverytest.World {
	t.Helper()
	w := deliverytest.New(1, map[string]storage.Store{serverA: memory.New(), serverB: memory.New()})
	w.RestartWith(serverA, func(d *delivery.Deps) {
		d.About = api.About{Module: "v1.0.0", Host: "Dendrite 0.13.8", Database: "SQLite", Schema: 16}
	})
	for i := range 30 {
		users := []string{alice, bob}
		if i%3 == 0 {
			users = []string{alice, bob, carol}
		}
		if _, _, err := deliverytest.NewGroup(t.Context(), w, serverA, users...); err != nil {
			t.Fatal(err)
		}
		w.Pass(7 * time.Minute)
	}
	move(t, w)
	if err := w.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Lose = func(m deliverytest.Message) bool { return m.What == "content" }
	id := move(t, w)
	report := `{"term":0,"seq":4,"epoch":7,"user_id":"@bob:b.example","reason":"<img src=x onerror=alert(1)>","at":1}`
	err := w.Stores[serverA].Apply(t.Context(), &storage.Change{Evidence: []storage.Evidence{
		{GroupID: id, Kind: storage.EvidenceFork, Data: []byte("a receipt"), KeyID: "ed25519:1", At: w.Now(serverA)},
		{GroupID: id, Kind: storage.EvidenceReport, Data: []byte(report), At: w.Now(serverA)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	w.Service(serverA).SetPeers(func() []api.FailingPeer {
		return []api.FailingPeer{{
			Server: serverB, Since: w.Now(serverA).Add(-time.Hour).UnixMilli(), Attempts: 12,
			LastAt: w.Now(serverA).UnixMilli(), Error: "dial tcp 192.0.2.7:8448: the network is not permitted",
			Remedy: "add 192.0.2.0/24 to federation.allow_networks",
		}}
	})
	return w
}

// move begins to move a new group to B. It returns the group's id.
func move(t *testing.T, w *deliverytest.World) []byte {
	t.Helper()
	group, members, err := deliverytest.NewGroup(t.Context(), w, serverA, alice, bob)
	if err != nil {
		t.Fatal(err)
	}
	proposed, err := members[1].NewMigration(t.Context(), serverB)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := members[1].Initiate(t.Context(), proposed); err != nil {
		t.Fatal(err)
	}
	return group.ID
}

// routes has the page and the admin API of server A.
func routes(w *deliverytest.World) http.Handler {
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	router.PathPrefix(adminapi.UIPath).Handler(adminapi.UI())
	router.PathPrefix(adminapi.PathPrefix + "/drain").Handler(new(drain))
	bodies, log := edge.NewBodies(256<<20), slog.New(slog.DiscardHandler)
	admin := router.PathPrefix(adminapi.PathPrefix).Subrouter()
	edge.Mount(admin, adminapi.Routes(w.Service(serverA)), authenticate, bodies, log)
	edge.Mount(admin, adminapi.HealthRoutes(w.Service(serverA)), anybody, bodies, log)
	return router
}

func anybody(*http.Request) (api.Caller, error) { return api.Caller{}, nil }

// authenticate knows an administrator and a user, as a homeserver does.
func authenticate(r *http.Request) (api.Caller, error) {
	switch r.Header.Get("Authorization") {
	case "Bearer token-of-admin":
		return api.Caller{UserID: alice, Server: serverA, Admin: true}, nil
	case "Bearer token-of-user":
		return api.Caller{}, &edge.Denied{Status: http.StatusForbidden, Body: refusal{"M_FORBIDDEN", "Only for admins."}}
	}
	return api.Caller{}, &edge.Denied{Status: http.StatusUnauthorized, Body: refusal{"M_UNKNOWN_TOKEN", "Unknown token."}}
}

type refusal struct {
	Code  string `json:"errcode"`
	Error string `json:"error"`
}

// faults stands before the admin API, and does to it what POST /fault/<mode> says.
type faults struct {
	mu      sync.Mutex
	mode    string
	waiting context.CancelFunc // lets the requests go on that the mode slow holds
	held    context.Context
}

func (f *faults) around(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if mode, ok := strings.CutPrefix(r.URL.Path, "/fault/"); ok {
			f.set(mode)
			return
		}
		f.mu.Lock()
		mode, held := f.mode, f.held
		f.mu.Unlock()
		if strings.HasPrefix(r.URL.Path, adminapi.UIPath) {
			mode = "good"
		}
		switch mode {
		case "slow":
			select {
			case <-held.Done():
			case <-r.Context().Done():
				return
			}
		case "down":
			panic(http.ErrAbortHandler)
		case "busy":
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"errcode":"M_UNKNOWN","error":"the database is away"}`)) // the page has gone otherwise
			return
		case "proxy":
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write([]byte("<h1>Bad gateway</h1>")) // likewise
			return
		case "revoked":
			r.Header.Set("Authorization", "Bearer revoked")
		case "demoted":
			r.Header.Set("Authorization", "Bearer token-of-user")
		}
		next.ServeHTTP(w, r)
	})
}

// set changes the mode. It lets the requests go on that wait.
func (f *faults) set(mode string) {
	f.end()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mode = mode
	f.held, f.waiting = context.WithCancel(context.Background())
}

func (f *faults) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting != nil {
		f.waiting()
	}
}

// drain answers the routes of a drain as a server in the middle of one. It remembers only whether the drain runs.
type drain struct {
	mu    sync.Mutex
	state string
}

func (d *drain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case r.Method == http.MethodPut:
		d.state = "running"
	case r.Method == http.MethodDelete:
		d.state = "stopped"
	}
	answer := strings.ReplaceAll(drainState, "STATE", d.state)
	switch _, view, _ := strings.Cut(r.URL.Path, "/drain"); {
	case view == "/groups":
		answer = drainGroups
	case view == "/plan":
		answer = drainPlan
	case d.state == "":
		answer = drainNone
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(answer)) // the page has gone otherwise
}

const (
	drainNone = `{"state":"none","targets":[],"groups":{},"total":0,"left":0,"away":[]}`

	drainState = `{"state":"STATE","targets":["b.example","c.example"],"rate_per_minute":60,
		"started_at":1700000000000,"deadline_at":1702592000000,"total":130,"left":49,
		"groups":{"waiting":28,"asked":12,"moving":4,"stuck":5,"moved":79,"gone":2},
		"away":[{"server":"c.example","until":1700000300000,"error":"dial tcp: no route to host"}]}`

	drainGroups = `{"limit":25,"total":3,"items":[
		{"group_id":"YS5leGFtcGxlAAE","room_id":"!room:a.example","state":"asked","why":[],
			"asked":{"user_id":"@bob:b.example","at":1700000000000,"until":1700000600000,"tried":1}},
		{"group_id":"YS5leGFtcGxlAAI","room_id":"!room:a.example","state":"stuck","why":[{"target":"b.example",
			"rule":"target_not_in_room","text":"No user of the target is in the room.","remedy":"Invite one."}]},
		{"group_id":"YS5leGFtcGxlAAM","room_id":"!room:a.example","state":"moved","why":[],
			"moved_to":{"server":"b.example","term":1}}]}`

	drainPlan = `{"limit":25,"total":2,"items":[
		{"group_id":"YS5leGFtcGxlAAE","room_id":"!room:a.example","members":2,"why":[],
			"moves":[{"target":"b.example","users":["@bob:b.example"],"total":1}]},
		{"group_id":"YS5leGFtcGxlAAI","room_id":"!room:a.example","members":1,"moves":[],"why":[{
			"rule":"no_member","text":"Nobody is in the group.","remedy":"Ask a member to come back."}]}]}`
)
