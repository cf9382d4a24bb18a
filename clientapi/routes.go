// Package clientapi is the API for this server's own users. They reach every Delivery Service through it, by its server name:
// the one on this server, and those on others over federation. Devices of other servers reach that of this server with
// requests that they sign.
package clientapi

import (
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// PathPrefix is where Routes are mounted.
const PathPrefix = "/_matrix/client/unstable/" + api.Namespace

// Services finds Delivery Services.
type Services struct {
	IsLocal func(server string) bool
	Local   api.API
	Remote  func(from, server string) api.API // as the local server from
	// AllowIPLiterals lets users name servers by their IP address.
	AllowIPLiterals bool
}

// Routes is the API of users, each route below /ds/{serverName}. home is told what comes of the calls; maxGroupState is the
// largest group this server takes, in bytes.
func Routes(services Services, home *Home, maxGroupState int64) []edge.Route {
	resolve := func(r *edge.Request) (api.API, error) {
		return services.find(r.Caller.Server, r.Vars["serverName"], home)
	}
	routes := edge.UserRoutes(resolve, maxGroupState/3*4+1<<16)
	for i := range routes {
		routes[i].Path = "/ds/{serverName}" + routes[i].Path
	}
	return routes
}

func (s *Services) find(from, server string, home *Home) (api.API, error) {
	if err := mimiport.ValidateServerName(server); err != nil {
		return nil, err
	}
	switch {
	case s.IsLocal(server) && !s.IsLocal(from): // a direct request: another server speaks for the user in rooms
		return s.Local, nil
	case s.IsLocal(server):
		return &announcer{s.Local, home, server, true}, nil
	}
	if mimiport.IsIPLiteral(server) && !s.AllowIPLiterals {
		return nil, mimiport.Errorf("find Delivery Service", mimiport.KindForbidden, "%s is an IP address", server)
	}
	return &announcer{s.Remote(from, server), home, server, false}, nil
}
