package hooks

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/setup/config"
	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// plug enables the module on a homeserver. lines are added to its section.
func plug(t testing.TB, h *homeserver, lines string) error {
	t.Helper()
	dir := t.TempDir()
	h.ConfigPath = filepath.Join(dir, "dendrite.yaml")
	section := "mimi_portability:\n  enabled: true\n" +
		"  database: {connection_string: \"file:" + dir + "/mimi.db\"}\n" + lines
	if err := os.WriteFile(h.ConfigPath, []byte(section), 0o600); err != nil {
		t.Fatal(err)
	}
	return Enable(h.Deps)
}

func plugged(t *testing.T, name string, net *fabric) *homeserver {
	t.Helper()
	h := start(t, name, net)
	if err := plug(t, h, ""); err != nil {
		t.Fatal(err)
	}
	return h
}

const aGroup = "/groups/AAAA"

func get(t *testing.T, u *harness.User, path string) *harness.Error {
	t.Helper()
	answer := &harness.Error{Status: http.StatusOK}
	if err := u.Do(t.Context(), http.MethodGet, path, nil, nil); err != nil && !errors.As(err, &answer) {
		t.Fatal(err)
	}
	return answer
}

func wantAnswer(t *testing.T, got *harness.Error, status int, code string) {
	t.Helper()
	if got.Status != status || got.Code != code {
		t.Errorf("got %v, want %d %s", got, status, code)
	}
}

func TestClientAuthentication(t *testing.T) {
	s := plugged(t, "s.example", newFabric())
	alice := s.register(t, "alice")
	path := clientapi.PathPrefix + "/ds/s.example" + aGroup
	wantAnswer(t, get(t, alice, path), http.StatusNotFound, "IO.GITHUB.MIMIPORT.M_UNKNOWN_GROUP")
	wantAnswer(t, get(t, &harness.User{Server: s.Server}, path), http.StatusUnauthorized, "M_MISSING_TOKEN")
	wantAnswer(t, get(t, &harness.User{Server: s.Server, Token: "x"}, path), http.StatusUnauthorized, "M_UNKNOWN_TOKEN")
	wantAnswer(t, get(t, guest(t, s), path), http.StatusForbidden, "M_GUEST_ACCESS_FORBIDDEN")
	wantAnswer(t, get(t, alice, clientapi.PathPrefix+"/ds/s.example/nothing"), http.StatusNotFound, "M_UNRECOGNIZED")
}

func guest(t *testing.T, s *homeserver) *harness.User {
	t.Helper()
	var account userapi.PerformAccountCreationResponse
	err := s.Users.PerformAccountCreation(t.Context(), &userapi.PerformAccountCreationRequest{
		AccountType: userapi.AccountTypeGuest, ServerName: spec.ServerName(s.Name),
	}, &account)
	if err != nil {
		t.Fatal(err)
	}
	var device userapi.PerformDeviceCreationResponse
	const token = "a guest's"
	err = s.Users.PerformDeviceCreation(t.Context(), &userapi.PerformDeviceCreationRequest{
		Localpart: account.Account.Localpart, ServerName: spec.ServerName(s.Name), AccessToken: token, FromRegistration: true,
	}, &device)
	if err != nil {
		t.Fatal(err)
	}
	return &harness.User{Server: s.Server, ID: account.Account.UserID, Token: token}
}

func TestAdminAuthentication(t *testing.T) {
	s := plugged(t, "s.example", newFabric())
	const path = adminapi.PathPrefix + "/policy"
	wantAnswer(t, get(t, harness.RegisterUser(t, s.Server, "root", true), path), http.StatusOK, "")
	wantAnswer(t, get(t, s.register(t, "alice"), path), http.StatusForbidden, "M_FORBIDDEN")
	wantAnswer(t, get(t, &harness.User{Server: s.Server}, path), http.StatusUnauthorized, "M_MISSING_TOKEN")
}

// TestPage: the homeserver serves the operator's page to anybody, beside the admin API, and to no other origin.
func TestPage(t *testing.T) {
	s := plugged(t, "s.example", newFabric())
	ask := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w
	}
	if w := ask(strings.TrimSuffix(adminapi.UIPath, "/")); w.Header().Get("Location") != adminapi.UIPath {
		t.Errorf("without the last slash: %d %v", w.Code, w.Header())
	}
	for _, file := range []string{"", "app.js"} {
		w := ask(adminapi.UIPath + file)
		if w.Code != http.StatusOK || w.Header().Get("Content-Security-Policy") == "" ||
			w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%q: %d %v", file, w.Code, w.Header())
		}
	}
}

func TestPreflight(t *testing.T) {
	s := plugged(t, "s.example", newFabric())
	r := httptest.NewRequest(http.MethodOptions, clientapi.PathPrefix+"/ds/s.example"+aGroup, nil)
	r.Header.Set("Access-Control-Request-Method", http.MethodGet)
	for _, r := range []*http.Request{r, httptest.NewRequest(http.MethodGet, r.URL.Path, nil)} {
		w := httptest.NewRecorder()
		s.handler.ServeHTTP(w, r)
		if w.Header().Get("Access-Control-Allow-Origin") != "*" ||
			(r.Method == http.MethodOptions && w.Code != http.StatusOK) {
			t.Errorf("%s: %d %v", r.Method, w.Code, w.Header())
		}
		if !strings.Contains(w.Header().Get("Access-Control-Allow-Headers"), "Authorization") {
			t.Errorf("%s: %v", r.Method, w.Header())
		}
	}
}

// ask sends one federation request from one server to another. It returns the status and the error code.
func ask(t *testing.T, from, to *homeserver, uri string, change func(*http.Request)) (status int, code string) {
	t.Helper()
	id := from.Config.Global.SigningIdentity
	fr := fclient.NewFederationRequest(http.MethodGet, id.ServerName, spec.ServerName(to.Name), uri)
	if err := fr.Sign(id.ServerName, id.KeyID, id.PrivateKey); err != nil {
		t.Fatal(err)
	}
	r, err := fr.HTTPRequest()
	if err != nil {
		t.Fatal(err)
	}
	change(r)
	resp, err := to.fabric.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Code string `json:"errcode"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer.Code
}

func TestFederationAuthentication(t *testing.T) {
	net := newFabric()
	s, tt := plugged(t, "s.example", net), plugged(t, "t.example", net)
	wantNone(t, s.meets(t, tt))
	asBob := federation.PathPrefix + aGroup + "?user_id=%40bob%3At.example"
	asAlice := federation.PathPrefix + aGroup + "?user_id=%40alice%3As.example"
	as := func(*http.Request) {}
	unsigned := func(r *http.Request) { r.Header.Del("Authorization") }
	tampered := func(r *http.Request) { r.URL.RawQuery += "&x=y" }
	for _, c := range []struct {
		name, uri string
		change    func(*http.Request)
		status    int
		code      string
	}{
		{"signed", asBob, as, http.StatusNotFound, "IO.GITHUB.MIMIPORT.M_UNKNOWN_GROUP"},
		{"without a user", federation.PathPrefix + aGroup, as, http.StatusForbidden, "M_FORBIDDEN"},
		{"for another server's user", asAlice, as, http.StatusForbidden, "M_FORBIDDEN"},
		{"unsigned", asBob, unsigned, http.StatusUnauthorized, "M_UNAUTHORIZED"},
		{"tampered with", asBob, tampered, http.StatusUnauthorized, "M_UNAUTHORIZED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if status, code := ask(t, tt, s, c.uri, c.change); status != c.status || code != c.code {
				t.Errorf("got %d %s", status, code)
			}
		})
	}
}

// A signed request makes this server ask the request's origin, and notaries, for a key. The guarded client asks.
// Dendrite's client, which connects to any address, does not.
func TestKeysOfSignersAreFetchedGuarded(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		t.Run(fmt.Sprintf("private networks permitted %v", allowed), func(t *testing.T) {
			var asked atomic.Bool
			internal := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
				asked.Store(true)
			}))
			defer internal.Close()
			origin := origin(t, strings.Replace(internal.Listener.Addr().String(), "127.0.0.1", "localhost", 1))
			net := newFabric()
			net.set(origin.Name, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				t.Errorf("Dendrite's client asked for %s", r.URL)
			}))
			var section string
			s := start(t, "s.example", net, func(cfg *config.Dendrite) {
				if allowed {
					section = allowLoopback(cfg)
				}
				cfg.FederationAPI.DisableTLSValidation = true
				cfg.FederationAPI.KeyPerspectives = config.KeyPerspectives{{ServerName: spec.ServerName(origin.Name)}}
			})
			if err := plug(t, s, section); err != nil {
				t.Fatal(err)
			}
			status, _ := ask(t, origin, s, federation.PathPrefix+aGroup, func(*http.Request) {})
			if status != http.StatusUnauthorized {
				t.Errorf("status %d", status)
			}
			if asked.Load() != allowed {
				t.Errorf("an internal server was asked: %v", asked.Load())
			}
		})
	}
}

// origin is a homeserver with a name and a key only.
func origin(t *testing.T, name string) *homeserver {
	return &homeserver{Server: &harness.Server{Name: name}, Deps: Deps{Config: testConfig(t, name)}}
}

// Profile, section 1: large binary is "authenticated before a byte of it is read".
func TestUnsignedContentIsNotRead(t *testing.T) {
	s := plugged(t, "s.example", newFabric())
	body := &countingReader{data: bytes.NewReader(make([]byte, 1<<20))}
	uri := federation.PathPrefix + "/migrations/" + strings.Repeat("A", 43) + "/content"
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, httptest.NewRequest(http.MethodPut, uri, body))
	if w.Code != http.StatusUnauthorized || body.read != 0 {
		t.Errorf("%d after %d bytes", w.Code, body.read)
	}
}

// Dendrite's handlers pass the deadline for a body to its server, on every API.
func TestDeadlineReachesTheServer(t *testing.T) {
	s := plugged(t, "s.example", newFabric())
	admin := harness.RegisterUser(t, s.Server, "root", true)
	for uri, method := range map[string]string{
		clientapi.PathPrefix + "/ds/s.example/groups": http.MethodPost,
		federation.PathPrefix + "/groups":             http.MethodPost,
		adminapi.PathPrefix + "/policy":               http.MethodPut,
	} {
		w := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest(method, uri, w)
		r.Header.Set("Authorization", "Bearer "+admin.Token)
		s.handler.ServeHTTP(w, r)
		if w.whileRead.IsZero() {
			t.Errorf("%s: the body was read without a deadline", uri)
		}
	}
}

// deadlineRecorder is a body. It records the deadline in force when a handler reads it.
type deadlineRecorder struct {
	*httptest.ResponseRecorder
	now, whileRead time.Time
}

func (r *deadlineRecorder) SetReadDeadline(at time.Time) error {
	r.now = at
	return nil
}

func (r *deadlineRecorder) Read([]byte) (int, error) {
	r.whileRead = r.now
	return 0, io.EOF
}

// The memory must be enough for the largest body of each route. The default is enough.
func TestRoomForBodies(t *testing.T) {
	h := start(t, "s.example", newFabric())
	err := plug(t, h, "  body_memory_bytes: 188743680\n")
	if err == nil || !strings.Contains(err.Error(), "body_memory_bytes") {
		t.Errorf("twice the largest body: %v", err)
	}
	if err := plug(t, start(t, "t.example", newFabric()), "  max_group_state_bytes: 1073741824\n"); err != nil {
		t.Errorf("a large group state: %v", err)
	}
}

type countingReader struct {
	data *bytes.Reader
	read int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.data.Read(p)
	c.read += n
	return n, err
}

// Profile, section 7: "the reserved user @_mimiport:<DS> (nobody can register it ...)".
func TestReservedUser(t *testing.T) {
	s := start(t, "s.example", newFabric())
	s.Config.ClientAPI.RegistrationDisabled = false
	s.Config.Derived.ApplicationServices = []config.ApplicationService{{
		ID: "bridge", ASToken: "bridge",
		NamespaceMap: map[string][]config.ApplicationServiceNamespace{
			"users": {{Regex: "@.*", RegexpObject: regexp.MustCompile("@.*")}},
		},
	}}
	if err := plug(t, s, ""); err != nil {
		t.Fatal(err)
	}
	_, err := s.Server.Register(t.Context(), "_mimiport", false)
	wantRefused(t, "by the shared secret", err, "M_INVALID_USERNAME")
	bridge := &harness.User{Server: s.Server, Token: "bridge"}
	for _, name := range []string{"_mimiport", "@_mimiport:s.example", "_MimiPort"} {
		wantRefused(t, "by an application service as "+name, register(t, bridge, name, "m.login.application_service"),
			"M_EXCLUSIVE")
		wantRefused(t, "by anybody as "+name, register(t, &harness.User{Server: s.Server}, name, "m.login.dummy"),
			"M_EXCLUSIVE")
	}
	if err := register(t, bridge, "_bridged", "m.login.application_service"); err != nil {
		t.Errorf("other users of the application service: %v", err)
	}
	wantRefused(t, "with a huge body", register(t, bridge, strings.Repeat("x", maxRegistration),
		"m.login.application_service"), "M_TOO_LARGE")
}

func register(t *testing.T, u *harness.User, name, flow string) error {
	t.Helper()
	return u.Do(t.Context(), http.MethodPost, "/_matrix/client/v3/register", map[string]any{
		"username": name, "type": flow, "auth": map[string]any{"type": flow},
	}, nil)
}

func wantRefused(t *testing.T, how string, err error, code string) {
	t.Helper()
	var refused *harness.Error
	if !errors.As(err, &refused) || refused.Code != code {
		t.Errorf("%s: %v", how, err)
	}
}

func TestFeatureIsAdvertised(t *testing.T) {
	s := plugged(t, "s.example", newFabric())
	var versions struct {
		Versions []string        `json:"versions"`
		Features map[string]bool `json:"unstable_features"`
	}
	anybody := &harness.User{Server: s.Server}
	if err := anybody.Do(t.Context(), http.MethodGet, "/_matrix/client/versions", nil, &versions); err != nil {
		t.Fatal(err)
	}
	ours := versions.Features[api.Namespace] && versions.Features[api.DirectFeature]
	if !ours || len(versions.Features) < 3 || len(versions.Versions) < 10 {
		t.Errorf("got %+v", versions)
	}
}

func TestEnableRefusals(t *testing.T) {
	for name, lines := range map[string]string{
		"unknown key":  "  colour: red\n",
		"bad database": "  database: {connection_string: \"mysql://x\"}\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, "s.example", newFabric())
			if err := plug(t, s, lines); err == nil || !strings.Contains(err.Error(), "mimi_portability") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The homeserver does not start with the database of a newer version, and does not change it.
func TestNewerSchemaRefusesToStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mimi.db")
	store, err := sqlite.Open(t.Context(), "file:"+file)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open(sqlutil.SQLITE_DRIVER_NAME, file)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("INSERT INTO mimiport_schema_version (version_id, is_applied) VALUES (1000, 1)"); err != nil {
		t.Fatal(err)
	}
	s := start(t, "s.example", newFabric())
	s.ConfigPath = filepath.Join(t.TempDir(), "dendrite.yaml")
	section := "mimi_portability: {enabled: true, database: {connection_string: \"file:" + file + "\"}}"
	if err := os.WriteFile(s.ConfigPath, []byte(section), 0o600); err != nil {
		t.Fatal(err)
	}
	const advice = "start the newer program that wrote it, or restore a backup"
	if err := Enable(s.Deps); err == nil || !strings.Contains(err.Error(), advice) {
		t.Errorf("got %v", err)
	}
}

// The worker ends with the homeserver: the cleanup of start waits for it.
func TestWorkerEndsWithTheProcess(t *testing.T) {
	s := plugged(t, "s.example", newFabric())
	s.quiesce(t)
	s.Process.ShutdownDendrite()
	done := make(chan struct{})
	go func() {
		s.Process.WaitForComponentsToFinish()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(harness.Patience):
		t.Error("something still runs")
	}
}

func TestMetrics(t *testing.T) {
	if registererOf(&config.Metrics{}) == prometheus.DefaultRegisterer {
		t.Error("metrics that are off are registered")
	}
	metrics, err := edge.NewMetrics(registererOf(&config.Metrics{Enabled: true}))
	if err != nil {
		t.Fatal(err)
	}
	router := mux.NewRouter()
	a := &surface{name: "client", router: router, root: "/", prefix: "/x",
		routes: []edge.Route{{Route: api.Route{Name: "ping", Method: http.MethodGet, Path: "/ping"}}},
		auth: func(*http.Request) (api.Caller, error) {
			return api.Caller{}, &edge.Denied{Status: http.StatusForbidden}
		}}
	a.mount(metrics, edge.NewBodies(0), newLogger())
	router.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/x/ping", nil))
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "mimiport_http_requests_total" && len(f.GetMetric()) == 1 {
			return
		}
	}
	t.Error("the request was not counted")
}
