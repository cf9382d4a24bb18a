package hooks

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/nats-io/nats.go"
	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/appservice"
	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
	"github.com/matrix-org/dendrite/federationapi"
	fedrouting "github.com/matrix-org/dendrite/federationapi/routing"
	"github.com/matrix-org/dendrite/internal/caching"
	"github.com/matrix-org/dendrite/internal/httputil"
	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/roomserver"
	"github.com/matrix-org/dendrite/setup"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/process"
	"github.com/matrix-org/dendrite/userapi"
	userapiapi "github.com/matrix-org/dendrite/userapi/api"
)

func TestMain(m *testing.M) {
	logrus.SetLevel(logrus.FatalLevel) // the last words of a host that ends the process
	os.Exit(m.Run())
}

// fabric carries federation requests between homeservers of one process.
type fabric struct {
	mu       sync.Mutex
	handlers map[string]http.Handler
}

func newFabric() *fabric { return &fabric{handlers: make(map[string]http.Handler)} }

// set connects a server; a nil handler cuts it off.
func (f *fabric) set(server string, h http.Handler) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handlers[server] = h
}

func (f *fabric) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	h := f.handlers[r.URL.Host]
	f.mu.Unlock()
	if h == nil {
		return nil, fmt.Errorf("%s cannot be reached", r.URL.Host)
	}
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	r2 := httptest.NewRequestWithContext(r.Context(), r.Method, "https://"+r.URL.Host+r.URL.RequestURI(),
		bytes.NewReader(body))
	r2.Header, r2.Host = r.Header.Clone(), r.URL.Host
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r2)
	return w.Result(), nil
}

// homeserver is a Dendrite in this process.
type homeserver struct {
	*harness.Server
	Deps
	fabric  *fabric
	handler http.Handler
}

// start boots a homeserver and connects it to the fabric. changes can change its configuration.
func start(t testing.TB, name string, net *fabric, changes ...func(*config.Dendrite)) *homeserver {
	t.Helper()
	cfg := testConfig(t, name)
	for _, change := range changes {
		change(cfg)
	}
	d, handler := boot(t, cfg, net)
	h := &homeserver{Deps: d, fabric: net, handler: handler}
	listener := httptest.NewServer(h.handler)
	h.Server = &harness.Server{Name: name, URL: listener.URL}
	net.set(name, h.handler)
	t.Cleanup(func() {
		listener.Close()
		h.quiesce(t)
		d.Process.ShutdownDendrite()
		d.Process.WaitForComponentsToFinish()
	})
	return h
}

func testConfig(t testing.TB, name string) *config.Dendrite {
	dir := t.TempDir()
	var cfg config.Dendrite
	cfg.Defaults(config.DefaultOpts{Generate: true, SingleDatabase: false})
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Global.SigningIdentity = fclient.SigningIdentity{ServerName: spec.ServerName(name), KeyID: "ed25519:now",
		PrivateKey: private}
	cfg.Global.JetStream.StoragePath = config.Path(dir)
	cfg.Global.JetStream.NoLog = true
	cfg.Global.Cache.EstimatedMaxSize = 16 << 20
	cfg.ClientAPI.RegistrationSharedSecret = harness.SharedSecret
	cfg.ClientAPI.RateLimiting.Enabled = false
	cfg.FederationAPI.KeyPerspectives = nil
	cfg.SyncAPI.Fulltext.Enabled = false
	cfg.UserAPI.BCryptCost = 4
	cfg.MediaAPI.BasePath = config.Path(dir)
	cfg.MediaAPI.AbsBasePath = config.Path(dir)
	for name, db := range map[string]*config.DatabaseOptions{
		"federation": &cfg.FederationAPI.Database, "keys": &cfg.KeyServer.Database, "media": &cfg.MediaAPI.Database,
		"mscs": &cfg.MSCs.Database, "relay": &cfg.RelayAPI.Database, "rooms": &cfg.RoomServer.Database,
		"sync": &cfg.SyncAPI.Database, "users": &cfg.UserAPI.AccountDatabase,
	} {
		db.ConnectionString = config.DataSource("file:" + dir + "/" + name + ".db")
	}
	if err := cfg.Derive(); err != nil {
		t.Fatal(err)
	}
	cfg.Wiring()
	return &cfg
}

// boot is Dendrite's main without listeners and metrics, and without the network.
func boot(t testing.TB, cfg *config.Dendrite, net *fabric) (Deps, http.Handler) {
	pc := process.NewProcessContext()
	fed := fclient.NewFederationClient(cfg.Global.SigningIdentities(), fclient.WithTransport(net))
	cm := sqlutil.NewConnectionManager(pc, cfg.Global.DatabaseOptions)
	routers := httputil.NewRouters()
	caches := caching.NewRistrettoCache(cfg.Global.Cache.EstimatedMaxSize, time.Hour, caching.DisableMetrics)
	var stream jetstream.NATSInstance
	rs := roomserver.NewInternalAPI(pc, cfg, cm, &stream, caches, caching.DisableMetrics)
	fs := federationapi.NewInternalAPI(pc, cfg, cm, &stream, fed, rs, caches, nil, false)
	rs.SetFederationAPI(fs, fs.KeyRing())
	users := userapi.NewInternalAPI(pc, cfg, cm, &stream, rs, fed, caching.DisableMetrics, fs.IsBlacklistedOrBackingOff)
	as := appservice.NewInternalAPI(pc, cfg, &stream, users, rs)
	rs.SetAppserviceAPI(as)
	rs.SetUserAPI(users)
	m := setup.Monolith{
		Config: cfg, Client: fclient.NewClient(fclient.WithTransport(net)), FedClient: fed, KeyRing: fs.KeyRing(),
		AppserviceAPI: as, FederationAPI: fs, RoomserverAPI: rs, UserAPI: users,
	}
	m.AddAllPublicRoutes(pc, cfg, routers, cm, &stream, caches, caching.DisableMetrics)
	return Deps{
		Config: cfg, Process: pc, NATS: &stream, Rooms: rs, Users: users, KeyRing: fs.KeyRing(),
		Routers: Routers{Client: routers.Client, Federation: routers.Federation, Admin: routers.DendriteAdmin},
		Wakeups: &fedrouting.FederationWakeups{FsAPI: fs},
	}, handlerOf(routers)
}

func handlerOf(r httputil.Routers) http.Handler {
	m := mux.NewRouter().SkipClean(true).UseEncodedPath()
	m.PathPrefix(httputil.PublicClientPathPrefix).Handler(r.Client)
	m.PathPrefix(httputil.PublicFederationPathPrefix).Handler(r.Federation)
	m.PathPrefix(httputil.PublicKeyPathPrefix).Handler(r.Keys)
	m.PathPrefix(httputil.SynapseAdminPathPrefix).Handler(r.SynapseAdmin)
	m.PathPrefix(httputil.DendriteAdminPathPrefix).Handler(r.DendriteAdmin)
	return m
}

// quiesce waits until Dendrite's consumers are idle. A consumer that is cut off in its work panics.
func (h *homeserver) quiesce(t testing.TB) {
	js, _ := h.NATS.Prepare(h.Process, &h.Config.Global.JetStream)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for calm := 0; calm < 2 && h.Process.Context().Err() == nil; <-tick.C {
		if busy(t, js) {
			calm = 0
		} else {
			calm++
		}
	}
}

func busy(t testing.TB, js nats.JetStreamContext) bool {
	for stream := range js.StreamNames() {
		for consumer := range js.ConsumersInfo(stream) {
			if consumer.NumPending > 0 || consumer.NumAckPending > 0 {
				return true
			}
		}
	}
	return false
}

func (h *homeserver) register(t testing.TB, localpart string) *harness.User {
	t.Helper()
	return harness.RegisterUser(t, h.Server, localpart, false)
}

func (h *homeserver) keys() *keys {
	k := &keys{
		config: &h.Config.FederationAPI, ring: h.KeyRing, store: memory.New(),
		client: fclient.NewClient(fclient.WithTransport(h.fabric)), now: time.Now, log: newLogger(),
	}
	k.silent = &silences{now: func() time.Time { return k.now() }}
	return k
}

func (h *homeserver) deviceKeys() *deviceKeys {
	k := h.keys()
	client := federation.NewClient(k.identity, fclient.NewClient(fclient.WithTransport(h.fabric)), time.Now)
	return newDeviceKeys(client, h.Users, k.isLocal, k.silent)
}

// meets stores another homeserver's key where Dendrite looks for the keys of signed requests.
func (h *homeserver) meets(t *testing.T, other *homeserver) error {
	g := &other.Config.Global
	of := gomatrixserverlib.PublicKeyLookupRequest{ServerName: spec.ServerName(other.Name), KeyID: g.KeyID}
	key := gomatrixserverlib.PublicKeyLookupResult{
		VerifyKey:    gomatrixserverlib.VerifyKey{Key: spec.Base64Bytes(g.PrivateKey.Public().(ed25519.PublicKey))},
		ValidUntilTS: spec.AsTimestamp(time.Now().Add(time.Hour)),
	}
	return h.KeyRing.KeyDatabase.StoreKeys(
		t.Context(), map[gomatrixserverlib.PublicKeyLookupRequest]gomatrixserverlib.PublicKeyLookupResult{of: key},
	)
}

func (h *homeserver) rooms() *rooms {
	return newRooms(&h.Config.Global, h.Rooms, h.Users, memory.New())
}

// rotate gives the homeserver a new signing key, and lists the former key as old.
func (h *homeserver) rotate(t *testing.T) {
	t.Helper()
	g := &h.Config.Global
	old := g.SigningIdentity
	g.OldVerifyKeys = append(g.OldVerifyKeys, &config.OldVerifyKeys{
		PrivateKey: old.PrivateKey, PublicKey: spec.Base64Bytes(old.PrivateKey.Public().(ed25519.PublicKey)),
		KeyID: old.KeyID, ExpiredAt: spec.AsTimestamp(time.Now()),
	})
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	g.KeyID, g.PrivateKey = gomatrixserverlib.KeyID(fmt.Sprintf("ed25519:after%d", len(g.OldVerifyKeys))), private
}

func deactivate(t *testing.T, h *homeserver, u *harness.User) {
	t.Helper()
	id, err := spec.NewUserID(u.ID, true)
	if err != nil {
		t.Fatal(err)
	}
	request := &userapiapi.PerformAccountDeactivationRequest{Localpart: id.Local(), ServerName: id.Domain()}
	var response userapiapi.PerformAccountDeactivationResponse
	if err := h.Users.PerformAccountDeactivation(t.Context(), request, &response); err != nil {
		t.Fatal(err)
	}
}
