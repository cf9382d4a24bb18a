package hooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/mattn/go-sqlite3"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/outbox"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/internal"
	"github.com/matrix-org/dendrite/setup/config"
)

// modulePath is the path of this module.
const modulePath = "github.com/matrix-org/dendrite/contrib/mimi"

// moduleVersion returns this module's version as the compiler knows it. For a build from the source tree it is the
// revision.
func moduleVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, dep := range info.Deps {
		if dep.Path == modulePath {
			return dep.Version
		}
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value
		}
	}
	return info.Main.Version
}

func hostVersion() string { return "Dendrite " + internal.VersionString() }

func about(store *engine.Store) api.About {
	database, schema := store.About()
	return api.About{Module: moduleVersion(), Host: hostVersion(), Database: database, Schema: schema}
}

// logStart writes the line that says with which parts the module has started. It warns of a policy in the database that
// overrides the configuration file.
func logStart(ctx context.Context, service *delivery.Service, log *slog.Logger) error {
	origins, err := service.PolicyOrigins(ctx)
	if err != nil {
		return err
	}
	var overridden []string
	origin := api.OriginDefault
	for path, value := range origins {
		switch value.Origin {
		case api.OriginAdministrator:
			overridden = append(overridden, path)
		case api.OriginSection:
			origin = api.OriginSection
		}
	}
	if len(overridden) > 0 {
		origin = api.OriginAdministrator
	}
	a := service.About
	log.Info("MIMI Portability is on", "module", a.Module, "host", a.Host, "database", a.Database, "schema", a.Schema,
		"policy", origin)
	if len(overridden) > 0 {
		slices.Sort(overridden)
		log.Warn("a policy that an administrator has set overrides the configuration file",
			"policy", strings.Join(overridden, " "), "remedy", `to return to the file, PUT {"preset": "section"} to /policy`)
	}
	return nil
}

func openStore(
	ctx context.Context, connection string, limits *config.DatabaseOptions, log *slog.Logger,
) (*engine.Store, error) {
	const key = "database.connection_string"
	if path, ok := strings.CutPrefix(connection, "file:"); ok {
		folder := filepath.Dir(path)
		if info, err := os.Stat(folder); err != nil || !info.IsDir() {
			return nil, fmt.Errorf("%s: %q: the folder %s does not exist: make it, or write another path",
				key, mimiport.Clip(connection), mimiport.Clip(folder))
		}
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return nil, fmt.Errorf("%s: %q is a folder: write the path of a file", key, mimiport.Clip(connection))
		}
	}
	store, err := engine.Open(ctx, connection, postgres.Pool{
		MaxOpen: limits.MaxOpenConns(), MaxIdle: limits.MaxIdleConns(), MaxLifetime: limits.ConnMaxLifetime(),
		Patience: databasePatience, Log: log,
	})
	if failure, ok := errors.AsType[sqlite3.Error](err); ok && slices.Contains(
		[]sqlite3.ErrNo{sqlite3.ErrCantOpen, sqlite3.ErrReadonly, sqlite3.ErrPerm}, failure.Code) {
		return nil, fmt.Errorf("%s: %q: this process cannot open the file for writing: check its owner, its permissions and "+
			"its attributes: %w", key, mimiport.Clip(connection), err)
	}
	return store, err
}

// failingPeers shows the failing servers to operators.
func failingPeers(failing []outbox.Peer) []api.FailingPeer {
	list := make([]api.FailingPeer, len(failing))
	for i, p := range failing {
		list[i] = api.FailingPeer{
			Server: p.Server, Since: storage.Millis(p.Since), Attempts: p.Attempts, LastAt: storage.Millis(p.LastAt),
			Error: mimiport.Clip(p.Err.Error()), Remedy: outbox.Remedy(p.Err),
		}
	}
	return list
}

// anybody lets every caller in.
func anybody(*http.Request) (api.Caller, error) { return api.Caller{}, nil }
