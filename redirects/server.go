package redirects

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/internal/slots"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// The bounds of a Server. The rates and the shares of bodies are those of a homeserver by default.
const (
	maxGroupState    = 1 << 20 // bytes of a content, which it refuses
	bodyMemory       = 64 << 20
	cacheBytes       = 64 << 20
	requestsOfUser   = 50 // a second
	requestsOfServer = 500
	maxAsking        = 8 // questions for devices that one homeserver has not answered yet
	maxAskingAll     = 64
)

// Deps are the parts of a Server. All are required.
type Deps struct {
	Key     fclient.SigningIdentity // its name is set from the table
	Web     *fclient.Client         // sends requests to servers that others name: see package dial
	Engines mls.Engines
	Now     func() time.Time
	Log     *slog.Logger
}

// Server answers for the groups in a table.
type Server struct {
	Home    Home
	Handler http.Handler
	table   *engine.Store
	memory  *memory.Store
	now     func() time.Time
}

// Open opens a table in an SQLite file, which it does not change.
func Open(ctx context.Context, file string, d Deps) (*Server, error) {
	table, err := engine.OpenSnapshot(context.WithoutCancel(ctx), "file:"+file) // the table lives until Close
	if err != nil {
		return nil, err
	}
	s := &Server{table: table, memory: memory.New(), now: d.Now}
	found, err := get(ctx, table, homeSetting, &s.Home)
	if err == nil && !found {
		err = fmt.Errorf("%s is not a table of redirects: mimictl redirects export makes one", file)
	}
	if err != nil {
		return nil, errors.Join(err, table.Close())
	}
	d.Key.ServerName = spec.ServerName(s.Home.Server)
	s.Handler = s.handler(d)
	return s, nil
}

// Close closes the table.
func (s *Server) Close() error { return s.table.Close() }

// Run forgets the nonces of old requests until the context ends.
func (s *Server) Run(ctx context.Context) {
	tick := time.NewTicker(storage.NonceLife)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = s.memory.Forget(ctx, storage.Horizon{Nonces: s.now().Add(-storage.NonceLife)}) // in memory it cannot fail
		}
	}
}

// handler serves the routes by which others follow a group, with the keys that they need for it.
func (s *Server) handler(d Deps) http.Handler {
	isLocal := func(server string) bool { return server == s.Home.Server }
	isLocalName := func(server spec.ServerName) bool { return isLocal(string(server)) }
	own := &keys{&s.Home, d.Key, d.Now}
	kept := store{s.table, s.memory}
	remote := federation.NewClient(
		func(string) (*fclient.SigningIdentity, error) { return &d.Key, nil }, d.Web, d.Now)
	asker := newAsker(remote)
	limits := delivery.DefaultLimits()
	limits.GroupStateBytes, limits.CacheBytes = maxGroupState, cacheBytes
	service := delivery.New(delivery.Deps{
		Server: s.Home.Server, IsLocal: isLocal, Engines: d.Engines, Store: kept, Keys: own, Rooms: rooms{s.table},
		Devices: asker, Sender: &federation.Sender{Client: remote, IsLocal: isLocal},
		Now: d.Now, Rand: rand.Reader, Log: d.Log, DefaultPolicy: ended(), Limits: limits,
	})
	rates := edge.NewRates(requestsOfUser, requestsOfServer, d.Now)
	verifier := &federation.Verifier{
		Server: spec.ServerName(s.Home.Server), IsLocal: isLocalName, Now: d.Now,
		Ring: newRing(d.Web, isLocalName, d.Key.PrivateKey),
	}
	direct := &clientapi.Direct{IsLocal: isLocal, Key: asker.key, Nonces: kept, Rates: rates, Now: d.Now}
	services := clientapi.Services{IsLocal: isLocal, Local: service,
		Remote: func(string, string) api.API { return service }} // never asked: a direct request is for this server alone
	home := &clientapi.Home{Rooms: rooms{s.table}, Moves: service, Keys: own, Now: d.Now, Log: d.Log}

	root := mux.NewRouter().SkipClean(true).UseEncodedPath()
	root.Use(uninterrupted)
	root.NotFoundHandler = answer(http.StatusNotFound, unrecognized)
	root.MethodNotAllowedHandler = answer(http.StatusMethodNotAllowed, unrecognized)
	bodies := edge.NewBodies(bodyMemory)
	edge.Mount(root.PathPrefix(federation.PathPrefix).Subrouter(), federation.Routes(service, maxGroupState),
		rates.Servers(func(r *http.Request) (api.Caller, error) {
			origin, to, err := verifier.Verify(r)
			if err != nil {
				return api.Caller{}, err
			}
			return federation.Caller(origin, to, r)
		}), bodies, d.Log)
	clients := root.PathPrefix(clientapi.PathPrefix).Subrouter()
	clients.Use(edge.CORS)
	edge.Mount(clients, clientapi.Routes(services, home, maxGroupState), direct.Authenticate, bodies, d.Log)
	root.Handle("/_matrix/client/versions", edge.CORS(answer(http.StatusOK, features)))
	root.Handle("/_matrix/federation/v1/version", answer(http.StatusOK, version)).Methods(http.MethodGet)
	root.HandleFunc("/_matrix/key/v2/server", own.serve).Methods(http.MethodGet)
	return root
}

// ended is the policy of a server that takes no group and gives none away. Members of a group whose room it never saw
// are those with a leaf.
func ended() policy.Policy {
	p := policy.Default()
	p.Source, p.Target, p.RequireRoom = policy.SourceNobody, policy.TargetNobody, false
	return p
}

// uninterrupted keeps a request alive when its caller has gone: SQLite would interrupt the reads of all others too.
func uninterrupted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithoutCancel(r.Context())))
	})
}

var (
	unrecognized = spec.MatrixError{ErrCode: spec.ErrorUnrecognized, Err: "This server has ended. It has no such route."}
	features     = map[string]any{"versions": []string{}, "unstable_features": map[string]bool{api.DirectFeature: true}}
	version      = map[string]any{"server": map[string]string{"name": "mimictl redirects"}}
)

func answer(status int, body any) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { edge.WriteJSON(w, status, body) })
}

func (k *keys) serve(w http.ResponseWriter, _ *http.Request) {
	object, err := k.object()
	if err != nil {
		edge.WriteJSON(w, http.StatusInternalServerError, spec.InternalServerError{})
		return
	}
	edge.WriteJSON(w, http.StatusOK, object)
}

// asker asks homeservers for the keys of devices that send direct requests.
type asker struct {
	client *federation.Client
	asking *slots.Slots[string]
	all    *slots.Slots[struct{}]
}

func newAsker(client *federation.Client) *asker {
	return &asker{client, slots.New[string](maxAsking), slots.New[struct{}](maxAskingAll)}
}

var _ delivery.Devices = (*asker)(nil)

// Look implements delivery.Devices.
func (*asker) Look(context.Context, string, string, []delivery.LeafKey) ([]delivery.Finding, error) {
	return nil, errStatic
}

// key is the Key of clientapi.Direct.
func (a *asker) key(ctx context.Context, from string, of api.DirectKey) ([]byte, error) {
	const op = "look up device key"
	_, server, err := gomatrixserverlib.SplitID('@', of.UserID)
	if err != nil {
		return nil, mimiport.Errorf(op, mimiport.KindBadMessage, "%w", err)
	}
	free, ok := a.asking.Take(string(server))
	if !ok {
		return nil, busy(op)
	}
	defer free()
	freeAll, ok := a.all.Take(struct{}{})
	if !ok {
		return nil, busy(op)
	}
	defer freeAll()
	devices, err := a.client.DeviceKeys(ctx, from, string(server), []string{of.UserID})
	if err != nil {
		return nil, err
	}
	return devices.Published(of)
}

func busy(op string) error {
	err := mimiport.Errorf(op, mimiport.KindQuota, "too many homeservers are being asked for devices")
	err.Info.RetryAfter = time.Second
	return err
}
