// Command dendrite-mimi is Dendrite's monolith with MIMI Portability. It has the same flags and the same
// dendrite.yaml, with the additional section mimi_portability, which package hooks documents. Without that section it
// behaves as Dendrite.
//
// docs/embedding.md explains how to add MIMI Portability to another build of Dendrite.
package main

import (
	"flag"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/getsentry/sentry-go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/matrix-org/dendrite/appservice"
	"github.com/matrix-org/dendrite/contrib/mimi/hooks"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/federationapi"
	fedrouting "github.com/matrix-org/dendrite/federationapi/routing"
	"github.com/matrix-org/dendrite/internal"
	"github.com/matrix-org/dendrite/internal/caching"
	"github.com/matrix-org/dendrite/internal/httputil"
	"github.com/matrix-org/dendrite/internal/sqlutil"
	"github.com/matrix-org/dendrite/roomserver"
	"github.com/matrix-org/dendrite/setup"
	"github.com/matrix-org/dendrite/setup/base"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/mscs"
	"github.com/matrix-org/dendrite/setup/process"
	"github.com/matrix-org/dendrite/userapi"
)

var (
	unixSocket           = flag.String("unix-socket", "", "listen on this Unix socket instead of TCP (experimental)")
	unixSocketPermission = flag.String("unix-socket-permission", "755", "permissions of the Unix socket, in octal")
	httpBindAddr         = flag.String("http-bind-address", ":8008", "the address to serve HTTP on")
	httpsBindAddr        = flag.String("https-bind-address", ":8448", "the address to serve HTTPS on")
	certFile             = flag.String("tls-cert", "", "the certificate for HTTPS, PEM")
	keyFile              = flag.String("tls-key", "", "the private key for HTTPS, PEM")
)

func main() {
	flag.Parse()
	if info, ok := debug.ReadBuildInfo(); ok && flag.Lookup("version").Value.String() == "true" {
		fmt.Print(versions(info))
		return
	}
	cfg := setup.ParseFlags(true)
	if err := run(cfg); err != nil {
		logrus.Fatal(err)
	}
}

func run(cfg *config.Dendrite) error {
	if err := verify(cfg); err != nil {
		return err
	}
	listeners, err := listenersFromFlags()
	if err != nil {
		return err
	}
	internal.SetupStdLogging()
	internal.SetupHookLogging(cfg.Logging)
	internal.SetupPprof()
	base.PlatformSanityChecks()
	logrus.Infof("Dendrite version %s", internal.VersionString())
	if !cfg.ClientAPI.RegistrationDisabled && cfg.ClientAPI.OpenRegistrationWithoutVerificationEnabled {
		logrus.Warn("Open registration is enabled")
	}

	tracing, err := cfg.SetupTracing()
	if err != nil {
		return fmt.Errorf("start tracing: %w", err)
	}
	defer tracing.Close() // nolint: errcheck

	pc := process.NewProcessContext()
	if err := startSentry(pc, cfg); err != nil {
		return err
	}
	routers, err := build(pc, cfg)
	if err != nil {
		return err
	}
	countUp()
	for _, l := range listeners {
		go base.SetupAndServeHTTP(pc, cfg, routers, l.address, l.cert, l.key)
	}
	base.WaitForShutdown(pc)
	return nil
}

func verify(cfg *config.Dendrite) error {
	var errs config.ConfigErrors
	cfg.Verify(&errs)
	if len(errs) > 0 {
		return fmt.Errorf("configuration: %w", errs)
	}
	return nil
}

// build starts Dendrite's components in the order of Dendrite's own main, and returns their routers.
func build(pc *process.ProcessContext, cfg *config.Dendrite) (httputil.Routers, error) {
	dnsCache := hooks.NewDNSCache(cfg)
	fedClient := base.CreateFederationClient(cfg, dnsCache)
	cm := sqlutil.NewConnectionManager(pc, cfg.Global.DatabaseOptions)
	routers := httputil.NewRouters()
	caches := caching.NewRistrettoCache(cfg.Global.Cache.EstimatedMaxSize, cfg.Global.Cache.MaxAge, caching.EnableMetrics)
	var nats jetstream.NATSInstance

	rsAPI := roomserver.NewInternalAPI(pc, cfg, cm, &nats, caches, caching.EnableMetrics)
	fsAPI := federationapi.NewInternalAPI(pc, cfg, cm, &nats, fedClient, rsAPI, caches, nil, false)
	keyRing := fsAPI.KeyRing()
	rsAPI.SetFederationAPI(fsAPI, keyRing)
	userAPI := userapi.NewInternalAPI(
		pc, cfg, cm, &nats, rsAPI, fedClient, caching.EnableMetrics, fsAPI.IsBlacklistedOrBackingOff,
	)
	asAPI := appservice.NewInternalAPI(pc, cfg, &nats, userAPI, rsAPI)
	rsAPI.SetAppserviceAPI(asAPI)
	rsAPI.SetUserAPI(userAPI)

	monolith := setup.Monolith{
		Config: cfg, Client: base.CreateClient(cfg, dnsCache), FedClient: fedClient, KeyRing: keyRing,
		AppserviceAPI: asAPI, FederationAPI: fsAPI, RoomserverAPI: rsAPI, UserAPI: userAPI,
	}
	monolith.AddAllPublicRoutes(pc, cfg, routers, cm, &nats, caches, caching.EnableMetrics)
	if len(cfg.MSCs.MSCs) > 0 {
		if err := mscs.Enable(cfg, cm, routers, &monolith, caches); err != nil {
			return routers, fmt.Errorf("enable MSCs: %w", err)
		}
	}
	wakeups := &fedrouting.FederationWakeups{FsAPI: fsAPI}
	return routers, enableMIMI(pc, routers, &nats, &monolith, wakeups)
}

// enableMIMI adds MIMI Portability to Dendrite.
func enableMIMI(
	pc *process.ProcessContext, routers httputil.Routers, nats *jetstream.NATSInstance, m *setup.Monolith,
	wakeups *fedrouting.FederationWakeups,
) error {
	return hooks.Enable(hooks.Deps{
		ConfigPath: flag.Lookup("config").Value.String(),
		Config:     m.Config,
		Process:    pc,
		Routers:    hooks.Routers{Client: routers.Client, Federation: routers.Federation, Admin: routers.DendriteAdmin},
		NATS:       nats,
		Rooms:      m.RoomserverAPI,
		Users:      m.UserAPI,
		KeyRing:    m.KeyRing,
		Wakeups:    wakeups,
		Engines:    []mls.Engine{draft09.New()}, // groups of go-mls
	})
}

func startSentry(pc *process.ProcessContext, cfg *config.Dendrite) error {
	if !cfg.Global.Sentry.Enabled {
		return nil
	}
	err := sentry.Init(sentry.ClientOptions{
		Dsn:              cfg.Global.Sentry.DSN,
		Environment:      cfg.Global.Sentry.Environment,
		Debug:            true,
		ServerName:       string(cfg.Global.ServerName),
		Release:          "dendrite@" + internal.VersionString(),
		AttachStacktrace: true,
	})
	if err != nil {
		return fmt.Errorf("start Sentry: %w", err)
	}
	pc.ComponentStarted()
	go func() {
		defer pc.ComponentFinished()
		<-pc.WaitForShutdown()
		if !sentry.Flush(5 * time.Second) {
			logrus.Warn("Sentry events were lost at shutdown")
		}
	}()
	return nil
}

// countUp exports the metric that Dendrite's dashboards need.
func countUp() {
	up := prometheus.NewCounter(prometheus.CounterOpts{
		Namespace: "dendrite", Name: "up", ConstLabels: prometheus.Labels{"version": internal.VersionString()},
	})
	up.Inc()
	prometheus.MustRegister(up)
}

type listener struct {
	address   config.ServerAddress
	cert, key *string
}

func listenersFromFlags() ([]listener, error) {
	if *unixSocket != "" {
		a, err := config.UnixSocketAddress(*unixSocket, *unixSocketPermission)
		return []listener{{address: a}}, err
	}
	plain, err := config.HTTPAddress("http://" + *httpBindAddr)
	if err != nil {
		return nil, err
	}
	ls := []listener{{address: plain}}
	if *certFile == "" || *keyFile == "" {
		return ls, nil
	}
	secure, err := config.HTTPAddress("https://" + *httpsBindAddr)
	return append(ls, listener{secure, certFile, keyFile}), err
}
