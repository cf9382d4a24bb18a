// Package ui drives the operator's page in a real browser, against the admin API of a Delivery Service.
package ui

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/mux"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

var screenshots = flag.Bool("screenshots", false, "write the screenshots in docs/ui again")

const (
	serverA, serverB, serverC = "a.example", "b.example", "c.example"
	alice, bob                = "@alice:a.example", "@bob:b.example"
	carol, cleo               = "@carol:a.example", "@cleo:c.example"
)

// TestPage: in a browser, the page shows what the admin API has, changes the policy, empties the server, and says so
// when the server is slow, down or refuses. It keeps the token in memory alone.
func TestPage(t *testing.T) {
	w := newWorld(t)
	faults := &faults{mode: "good"}
	server := httptest.NewServer(faults.around(routes(w)))
	t.Cleanup(server.Close)
	t.Cleanup(faults.end)
	drive := harness.Browse(t, "drive.mjs", server.URL)
	if *screenshots {
		drive.Env = append(drive.Env, "SCREENSHOTS=../../docs/ui")
	}
	if out, err := drive.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// newWorld makes three servers. A has 30 groups: nobody from B is in 6 of them. One more has moved to B, and one is
// frozen since C gets no content. C does not answer a drain either.
func newWorld(t *testing.T) *deliverytest.World {
	t.Helper()
	w := deliverytest.New(1, map[string]storage.Store{
		serverA: memory.New(), serverB: memory.New(), serverC: memory.New(),
	})
	w.RestartWith(serverA, func(d *delivery.Deps) {
		d.About = api.About{Module: "v1.0.0", Host: "Dendrite 0.13.8", Database: "SQLite", Schema: 16}
	})
	w.Lose = func(m deliverytest.Message) bool {
		return m.To == serverC && (m.What == "content" || m.What == "intake")
	}
	for i := range 30 {
		users := []string{alice, bob}
		switch {
		case i%5 == 0:
			users = []string{alice, carol}
		case i%3 == 0:
			users = []string{alice, bob, carol}
		}
		if _, _, err := deliverytest.NewGroup(t.Context(), w, serverA, users...); err != nil {
			t.Fatal(err)
		}
		w.Pass(7 * time.Minute)
	}
	move(t, w, bob)
	if err := w.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	id := move(t, w, cleo)
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
			Server: serverC, Since: w.Now(serverA).Add(-time.Hour).UnixMilli(), Attempts: 12,
			LastAt: w.Now(serverA).UnixMilli(), Error: "dial tcp 192.0.2.7:8448: the network is not permitted",
			Remedy: "add 192.0.2.0/24 to federation.allow_networks",
		}}
	})
	return w
}

// move begins to move a new group to a member's server. It returns the group's id.
func move(t *testing.T, w *deliverytest.World, member string) []byte {
	t.Helper()
	group, members, err := deliverytest.NewGroup(t.Context(), w, serverA, alice, member)
	if err != nil {
		t.Fatal(err)
	}
	_, server, _ := strings.Cut(member, ":")
	proposed, err := members[1].NewMigration(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := members[1].Initiate(t.Context(), proposed); err != nil {
		t.Fatal(err)
	}
	return group.ID
}

// routes has the page and the admin API of server A, and what the driver does to the world.
func routes(w *deliverytest.World) http.Handler {
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	router.PathPrefix(adminapi.UIPath).Handler(adminapi.UI())
	bodies, log := edge.NewBodies(256<<20), slog.New(slog.DiscardHandler)
	admin := router.PathPrefix(adminapi.PathPrefix).Subrouter()
	edge.Mount(admin, adminapi.Routes(w.Service(serverA)), authenticate, bodies, log)
	edge.Mount(admin, adminapi.HealthRoutes(w.Service(serverA)), anybody, bodies, log)
	router.Handle("/world/{act}", worldly(w))
	return router
}

// worldly does to the world what POST /world/<act>?n=<n> says, and answers with the time there.
func worldly(w *deliverytest.World) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.FormValue("n"))
		switch {
		case err != nil:
		case mux.Vars(r)["act"] == "pass":
			err = w.RunFor(r.Context(), time.Duration(n)*time.Second)
		case mux.Vars(r)["act"] == "answer":
			if err = w.Answer(r.Context(), n); err == nil {
				err = w.Run(r.Context())
			}
		case mux.Vars(r)["act"] == "close":
			err = closeWaiting(r.Context(), w, n)
		}
		if err != nil {
			http.Error(rw, err.Error(), http.StatusInternalServerError)
			return
		}
		_, _ = fmt.Fprint(rw, w.Now(serverA).UnixMilli()) // the driver has gone otherwise
	})
}

// closeWaiting lets members end n groups that wait in the drain.
func closeWaiting(ctx context.Context, w *deliverytest.World, n int) error {
	waiting, err := w.Stores[serverA].DrainGroups(ctx, []storage.DrainState{storage.DrainWaiting}, nil, n)
	for i := range waiting {
		if err == nil {
			_, err = w.Service(serverA).CloseGroup(ctx, deliverytest.Caller(alice), waiting[i].ID)
		}
	}
	return err
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
