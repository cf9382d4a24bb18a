// Package hooks plugs MIMI Portability into a Dendrite monolith: configuration, keys, rooms, authentication, delivery
// to devices, routes and the worker. Only this package, the command and the integration tests know Dendrite.
package hooks

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/federation/dial"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/outbox"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	fedrouting "github.com/matrix-org/dendrite/federationapi/routing"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/process"
	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// Deps is everything that Enable needs of a monolith. Dendrite's own main has all of it.
type Deps struct {
	ConfigPath string // the homeserver's configuration file
	Config     *config.Dendrite
	Process    *process.ProcessContext
	Routers    Routers
	NATS       *jetstream.NATSInstance
	Rooms      rsapi.RoomserverInternalAPI
	Users      userapi.UserInternalAPI
	KeyRing    *gomatrixserverlib.KeyRing
	Wakeups    *fedrouting.FederationWakeups
	Engines    []mls.Engine // for groups of other protocols than that of RFC 9420
}

// Routers are those of the homeserver's routers to which Enable adds routes.
type Routers struct {
	Client     *mux.Router // below /_matrix/client/
	Federation *mux.Router // below /_matrix/federation/
	Admin      *mux.Router // below /_dendrite/
}

// Enable plugs MIMI Portability in if the configuration file has a section mimi_portability that enables it. Otherwise
// it changes nothing. The monolith calls it once, after Dendrite has added its routes and before its listeners start.
// Enable fails, and starts no worker, if the section has an unknown key, if the database cannot be opened, or if
// Dendrite lacks a route that Enable wraps.
func Enable(d Deps) error {
	cfg, warnings, err := loadConfig(d.ConfigPath)
	if err != nil {
		return err
	}
	log := newLogger()
	for _, warning := range warnings {
		log.Warn("the configuration may have a mistake", "error", warning)
	}
	if !cfg.Enabled {
		log.Info("MIMI Portability is off", "module", moduleVersion(), "host", hostVersion())
		return nil
	}
	if err := enable(&d, cfg, log); err != nil {
		return fmt.Errorf("%s: %w", sectionName, err)
	}
	return nil
}

func enable(d *Deps, cfg *Config, log *slog.Logger) error {
	d.Rooms, d.Users = patientRooms{d.Rooms}, patientUsers{d.Users}
	suites, err := cfg.mlsLimits()
	if err != nil {
		return err
	}
	metrics, err := newMetrics(registererOf(&d.Config.Global.Metrics), log)
	if err != nil {
		return err
	}
	client := d.Routers.Client
	if err := errors.Join(advertise(client), reserveSender(client, d.Config.Global.ServerName)); err != nil {
		return err
	}
	connection := cfg.connection(d.Config.Global.DatabaseOptions.ConnectionString)
	if err := requireConnection(connection); err != nil {
		return err
	}
	store, err := openStore(d.Process.Context(), connection, &cfg.Database, log)
	if err != nil {
		return err
	}
	store.Observe(metrics.timed)
	global := &d.Config.Global
	isLocal := func(server string) bool { return global.IsLocalServerName(spec.ServerName(server)) }
	permitted, err := networks(&cfg.Federation, &d.Config.FederationAPI)
	if err != nil {
		return err
	}
	allowed := dial.Allowed{Networks: permitted, IPLiterals: cfg.Federation.AllowIPLiterals}
	transport := newTransport(global, allowed, d.Config.FederationAPI.DisableTLSValidation)
	web := newClient(transport, keyTimeout)
	ring := guarded(d.KeyRing, web)
	keys := &keys{
		config: &d.Config.FederationAPI, ring: ring, store: store, client: web, stolen: cfg.StolenKeys, now: clock, log: log,
		silent: &silences{now: clock},
	}
	rooms := newRooms(global, d.Rooms, d.Users, store)
	remote := federation.NewClient(keys.identity, newClient(transport, 0), clock)
	published := newDeviceKeys(remote, d.Users, isLocal, keys.silent)
	local := newDevices(d, published.ownDevices)
	kept, sender := instrument(store, &federation.Sender{Client: remote, IsLocal: isLocal, Local: local})
	service := delivery.New(delivery.Deps{
		Server: string(global.ServerName), IsLocal: isLocal,
		Engines: engines(suites, d.Engines),
		Store:   kept, Keys: keys, Rooms: rooms, Devices: published,
		Sender:        sender,
		Now:           clock,
		Rand:          rand.Reader,
		Log:           log,
		DefaultPolicy: cfg.Policy.Policy, ConfiguredPolicy: cfg.Policy.Set,
		Limits:  cfg.limits(),
		Metrics: metrics.service,
		About:   about(store),
	})
	services := clientapi.Services{IsLocal: isLocal, Local: service, Remote: remote.API,
		AllowIPLiterals: cfg.Federation.AllowIPLiterals}
	home := &clientapi.Home{Rooms: rooms, Moves: service, Keys: keys, Now: clock, Log: log}

	auth := &authenticator{
		users: d.Users, wakeups: d.Wakeups, spoke: keys.silent.spoke, servers: &federation.Verifier{
			Server: global.ServerName, IsLocal: global.IsLocalServerName, Ring: ring, Now: clock,
		},
	}
	rates := edge.NewRates(cfg.RequestsPerSecond.User, cfg.RequestsPerSecond.Server, clock)
	direct := &clientapi.Direct{IsLocal: isLocal, Key: published.key, Nonces: store, Rates: rates, Now: clock}
	surfaces := []surface{
		{"client", d.Routers.Client, "/_matrix/client/", clientapi.PathPrefix,
			clientapi.Routes(services, home, cfg.MaxGroupStateBytes), either(direct.Authenticate, rates.Users(auth.client))},
		{"federation", d.Routers.Federation, "/_matrix/federation/", federation.PathPrefix,
			federation.Routes(service, cfg.MaxGroupStateBytes), rates.Servers(auth.federation)},
		{"admin", d.Routers.Admin, "/_dendrite/", adminapi.PathPrefix,
			adminapi.Routes(service), rates.Users(auth.admin)},
		{"health", d.Routers.Admin, "/_dendrite/", adminapi.PathPrefix,
			adminapi.HealthRoutes(service), anybody},
	}
	bodies := edge.NewBodies(cfg.bodyMemory())
	if err := requireRoom(bodies, surfaces); err != nil {
		return err
	}
	for _, a := range surfaces {
		a.mount(metrics.requests, bodies, log)
	}
	mountPage(d.Routers.Admin)
	if err := service.Started(d.Process.Context()); err != nil {
		return err
	}
	if err := logStart(d.Process.Context(), service, log); err != nil {
		return err
	}
	run(d.Process, service, kept, localNames(global), cfg.Retention, metrics, log)
	return errors.Join(
		watchRooms(d, rooms.facts.tell, service.RoomChanged, log),
		watchDevices(d, func(ctx context.Context, userID string) error {
			published.forget(userID)
			return service.DevicesChanged(ctx, userID)
		}, log),
	)
}

// requireRoom fails unless the memory is enough for the largest body of each route.
func requireRoom(bodies *edge.Bodies, surfaces []surface) error {
	for _, a := range surfaces {
		for _, rt := range a.routes {
			if rt.MaxBody >= bodies.Share() {
				return fmt.Errorf("body_memory_bytes must be more than %d: twice the body of %s", 2*rt.MaxBody, rt.Name)
			}
		}
	}
	return nil
}

// registererOf returns the registerer of metrics. If they are off, nobody reads it.
func registererOf(cfg *config.Metrics) prometheus.Registerer {
	if !cfg.Enabled {
		return prometheus.NewRegistry()
	}
	return prometheus.DefaultRegisterer
}

// newTransport returns the transport for requests to servers that others name.
func newTransport(global *config.Global, allowed dial.Allowed, skipVerify bool) http.RoundTripper {
	if global.DisableFederation {
		return noFederation{}
	}
	return dial.NewTransport(allowed, skipVerify, clock)
}

// keyTimeout is the longest wait for another server's keys.
const keyTimeout = 15 * time.Second

// newClient returns a client. A timeout of 0 is none: then each request needs its own.
func newClient(transport http.RoundTripper, timeout time.Duration) *fclient.Client {
	return fclient.NewClient(
		fclient.WithTransport(transport), fclient.WithTimeout(timeout), fclient.WithUserAgent("dendrite-mimi"),
	)
}

// noFederation is the transport of a homeserver with federation disabled.
type noFederation struct{}

func (noFederation) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("federation is disabled on this homeserver")
}

// engines returns the engine of RFC 9420 and the others, by protocol.
func engines(limits mls.Limits, more []mls.Engine) map[string]mls.Engine {
	byProtocol := map[string]mls.Engine{mls.ProtocolMLS10: mls.RFC9420Batched(limits, rand.Reader)}
	for _, e := range more {
		byProtocol[e.Protocol()] = e
	}
	return byProtocol
}

// localNames lists the server names of the homeserver.
func localNames(global *config.Global) []string {
	names := []string{string(global.ServerName)}
	for _, host := range global.VirtualHosts {
		names = append(names, string(host.ServerName))
	}
	return names
}

// run does the due rows and deletes old data until the homeserver shuts down.
func run(
	pc *process.ProcessContext, service *delivery.Service, store storage.Store, own []string, keep Retention,
	metrics *metrics, log *slog.Logger,
) {
	worker := outbox.New(store, service, own, clock, mathrand.Float64, log)
	service.SetWake(worker.Wake)
	metrics.figures.start(store, service, worker)
	service.SetPeers(func() []api.FailingPeer { return failingPeers(worker.Failing()) })
	pc.ComponentStarted()
	go func() {
		defer pc.ComponentFinished()
		var work sync.WaitGroup
		work.Go(func() { worker.Run(pc.Context()) })
		work.Go(func() { forget(pc.Context(), store, keep, log) })
		work.Go(func() { metrics.health.watch(pc.Context(), store) })
		work.Go(func() { beat(pc.Context(), service, log) })
		work.Go(func() { audit(pc.Context(), service.Audit, log) })
		work.Wait()
		if err := store.Close(); err != nil {
			log.Error("cannot close the database", "error", err)
		}
	}()
}

// forget deletes data whose retention has passed, once an hour.
func forget(ctx context.Context, store storage.Store, keep Retention, log *slog.Logger) {
	every(ctx, time.Hour, func() {
		if err := store.Forget(ctx, keep.horizon(clock())); err != nil && ctx.Err() == nil {
			log.Error("cannot delete data whose retention has passed", "error", err)
		}
	})
}

// beat records regularly that this server is in service.
func beat(ctx context.Context, service *delivery.Service, log *slog.Logger) {
	every(ctx, delivery.HeartbeatEvery, func() {
		if err := service.Beat(ctx); err != nil && ctx.Err() == nil {
			log.Error("cannot record that this server is in service", "error", err)
		}
	})
}

// every calls do at once and then after each d, until the context ends.
func every(ctx context.Context, d time.Duration, do func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for ctx.Err() == nil {
		do()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
