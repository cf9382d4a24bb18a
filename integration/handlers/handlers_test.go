// Package handlers sends requests of users and servers to the routes of real services, in one process.
package handlers

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest"
)

const (
	hostA  = "a.example"
	hostB  = "b.example"
	aliceA = "@alice:a.example"
	bobB   = "@bob:b.example"

	// The bounds of one input: its requests, and the size of a group's state in bytes.
	maxRequests   = 8
	maxGroupState = 1 << 16
)

// stage has two Delivery Services behind their routes, and a group of alice and bob at the first.
type stage struct {
	*deliverytest.World
	faulty   *storagetest.Faulty // the store of the first
	handlers map[string]http.Handler
	group    *mlstest.Group
}

func newStage(t testing.TB) *stage {
	t.Helper()
	s := &stage{faulty: &storagetest.Faulty{Store: memory.New()}, handlers: map[string]http.Handler{}}
	s.World = deliverytest.New(1, map[string]storage.Store{hostA: s.faulty, hostB: memory.New()})
	s.Room.Join(aliceA, bobB)
	for _, name := range s.Servers() {
		s.handlers[name] = s.handler(name)
	}
	service := s.Service(hostA)
	reserved, err := service.ReserveGroup(
		t.Context(), deliverytest.Caller(aliceA), &api.ReserveGroupRequest{RoomID: deliverytest.RoomID},
	)
	if err != nil {
		t.Fatal(err)
	}
	s.group = mlstest.New(mlstest.Options{
		Seed: 1, GroupID: reserved.GroupID,
		Members: [][]byte{mlstest.Identity(aliceA, "A"), mlstest.Identity(bobB, "B")},
	})
	_, err = service.BindGroup(t.Context(), deliverytest.Caller(aliceA), reserved.GroupID, &api.BindGroupRequest{
		Protocol: "mls10", GroupInfo: s.group.GroupInfo(), RatchetTree: s.group.RatchetTree(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asking is the header that names the caller: a user of the server, or another server.
const asking = "Asking"

// handler returns a server's routes for its users and for other servers. When a user names another Delivery Service,
// the other server of the stage answers, whatever the name.
func (s *stage) handler(name string) http.Handler {
	quiet := slog.New(slog.DiscardHandler)
	service := s.Service(name)
	home := &clientapi.Home{
		Rooms: service.Rooms, Moves: service, Keys: service.Keys, Now: func() time.Time { return s.Now(name) }, Log: quiet,
	}
	services := clientapi.Services{
		IsLocal: func(server string) bool { return server == name },
		Local:   service,
		Remote:  func(string, string) api.API { return s.Service(map[string]string{hostA: hostB, hostB: hostA}[name]) },
	}
	user := func(r *http.Request) (api.Caller, error) {
		return api.Caller{UserID: r.Header.Get(asking), Server: name}, nil
	}
	server := func(r *http.Request) (api.Caller, error) {
		return federation.Caller(spec.ServerName(r.Header.Get(asking)), spec.ServerName(name), r)
	}
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	bodies := edge.NewBodies(256 << 20)
	mount := func(prefix string, routes []edge.Route, auth edge.Authenticate) {
		edge.Mount(router.PathPrefix(prefix).Subrouter(), routes, auth, bodies, quiet)
	}
	mount(clientapi.PathPrefix, clientapi.Routes(services, home, maxGroupState), user)
	mount(federation.PathPrefix, federation.Routes(service, maxGroupState), server)
	return router
}

// play sends a request of a script: a line "TO FROM METHOD URI", and a body. It returns 0 if the request is malformed.
func (s *stage) play(request string) (status int, body string) {
	head, text, _ := strings.Cut(request, "\n")
	var to, from, method, uri string
	if _, err := fmt.Sscanf(head, "%s %s %s %s", &to, &from, &method, &uri); err != nil || s.handlers[to] == nil {
		return 0, ""
	}
	u, err := url.ParseRequestURI(uri)
	if err != nil {
		return 0, ""
	}
	r := httptest.NewRequest(http.MethodPut, "/", strings.NewReader(text))
	r.Method, r.URL = method, u
	r.Header.Set(asking, from)
	w := httptest.NewRecorder()
	s.handlers[to].ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

const nextRequest = "\n\n"

// seeds returns scripts with a request for each route, and a script of honest use.
func seeds(t testing.TB) (scripts []string) {
	s := newStage(t)
	id := base64.RawURLEncoding.EncodeToString(s.group.ID())
	migration := strings.Repeat("A", 43)
	fill := strings.NewReplacer("{groupId}", id, "{migrationId}", migration, "{serverName}", hostA)
	script := func(to, from, method, uri string, body any) string {
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s %s %s %s\n%s", to, from, method, uri, text)
	}
	asBob := "?user_id=" + url.QueryEscape(bobB)
	for _, route := range clientapi.Routes(clientapi.Services{}, nil, maxGroupState) {
		uri := clientapi.PathPrefix + fill.Replace(route.Path)
		scripts = append(scripts, script(hostA, aliceA, route.Method, uri, struct{}{}))
	}
	for _, route := range federation.Routes(s.Service(hostA), maxGroupState) {
		uri := federation.PathPrefix + fill.Replace(route.Path)
		for _, query := range []string{"", asBob} {
			scripts = append(scripts, script(hostA, hostB, route.Method, uri+query, struct{}{}))
		}
	}
	users, peers := clientapi.PathPrefix+"/ds/"+hostA+"/groups", federation.PathPrefix+"/groups/"+id
	c := s.group.Commit(mlstest.CommitOptions{Path: true})
	request := mimiport.MigrationRequest{SourceDomain: hostA, TargetDomain: hostB, GroupID: s.group.ID()}
	encoded, err := request.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	lineage, err := (&mimiport.Lineage{CreatingServer: hostA, RoomID: deliverytest.RoomID}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	honest := []string{
		script(hostA, aliceA, "POST", users+"/"+id+"/messages",
			&api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}),
		script(hostA, hostB, "POST", peers+"/messages"+asBob, &api.SubmitRequest{Message: c.Next.Application(nil, 8)}),
		script(hostA, hostB, "GET", peers+"/tree"+asBob+"&epoch=1", nil),
		script(hostB, bobB, "POST", clientapi.PathPrefix+"/ds/"+hostB+"/migrations",
			&api.MigrationRequestRequest{MigrationRequest: encoded, RoomID: deliverytest.RoomID}),
		script(hostA, hostB, "PUT", peers+"/lineage", &api.LineageRequest{Lineage: lineage}),
		script(hostA, aliceA, "POST", users, &api.ReserveGroupRequest{RoomID: deliverytest.RoomID}),
	}
	return append(append(scripts, honest...), strings.Join(honest, nextRequest))
}

// FuzzHandlers: users and servers send any requests in any order to real services. No request panics. No answer reports
// a fault of the server, unless its store has failed. faults chooses a write of the first server that fails, before or
// after it takes effect; 0 means no failure.
func FuzzHandlers(f *testing.F) {
	for i, script := range seeds(f) {
		f.Add(uint8(0), script)
		f.Add(uint8(i), script)
	}
	f.Fuzz(func(t *testing.T, faults uint8, script string) {
		s := newStage(t)
		if k := int(faults / 2); faults%2 == 0 {
			s.faulty.FailBefore(k)
		} else {
			s.faulty.FailAfter(k)
		}
		for i, request := range strings.Split(script, nextRequest) {
			if i == maxRequests {
				break
			}
			status, body := s.play(request)
			unreachable := status == http.StatusBadGateway && strings.Contains(body, "M_PEER_UNREACHABLE")
			if faults == 0 && status >= 500 && !unreachable || status == http.StatusUnauthorized {
				t.Errorf("%.200q: %d %s", request, status, body)
			}
			if _, err := s.WorkAll(t.Context()); err != nil && faults == 0 {
				t.Error(err)
			}
		}
	})
}
