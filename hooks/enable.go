// Package hooks plugs MIMI Portability into a Dendrite monolith: configuration, keys, rooms, authentication, delivery to devices,
// routes and the worker. It is the only package below cmd/ that knows Dendrite.
package hooks

import (
	"fmt"

	"github.com/matrix-org/gomatrixserverlib"

	fedapi "github.com/matrix-org/dendrite/federationapi/api"
	fedrouting "github.com/matrix-org/dendrite/federationapi/routing"
	"github.com/matrix-org/dendrite/internal/httputil"
	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/setup/config"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/process"
	userapi "github.com/matrix-org/dendrite/userapi/api"
)

// Deps is what a monolith hands over: all of it is at hand in Dendrite's own main.
type Deps struct {
	ConfigPath string // the homeserver's configuration file
	Config     *config.Dendrite
	Process    *process.ProcessContext
	Routers    httputil.Routers
	NATS       *jetstream.NATSInstance
	Rooms      rsapi.RoomserverInternalAPI
	Federation fedapi.FederationInternalAPI
	Users      userapi.UserInternalAPI
	KeyRing    gomatrixserverlib.JSONVerifier
	Wakeups    *fedrouting.FederationWakeups
}

// Enable plugs MIMI Portability in when the section mimi_portability of the configuration file says so, and otherwise changes nothing. Call it
// once, after Dendrite has added its routes and before its listeners start. It returns an error, and has started nothing, when the
// section has a key it does not know or the database cannot be opened.
func Enable(d Deps) error {
	cfg, err := loadConfig(d.ConfigPath)
	if err != nil || !cfg.Enabled {
		return err
	}
	if err := advertise(d.Routers.Client); err != nil {
		return fmt.Errorf("mimi_portability: %w", err)
	}
	return nil
}
