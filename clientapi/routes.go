// Package clientapi is the API for this server's own users. Through it they reach every Delivery Service by its server
// name: the local one directly, and others over federation. Devices of other servers reach the local Delivery Service
// with requests that they sign.
package clientapi

import (
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// PathPrefix is the path under which Routes are mounted.
const PathPrefix = "/_matrix/client/unstable/" + api.Namespace

// Services finds Delivery Services.
type Services struct {
	IsLocal func(server string) bool
	Local   api.API
	Remote  func(from, server string) api.API // sends requests in the name of the local server from
	// AllowIPLiterals lets users name servers by their IP address.
	AllowIPLiterals bool
}

// Routes makes the API of users. Each route is below /ds/{serverName}. home announces the results of calls in rooms.
// maxGroupState is the largest state of a group that this server accepts, in bytes.
func Routes(services Services, home *Home, maxGroupState int64) []edge.Route {
	resolve := func(r *edge.Request) (api.API, error) {
		return services.find(r.Caller.Server, r.Vars["serverName"], home)
	}
	routes := append(edge.UserRoutes(resolve, maxGroupState/3*4+1<<16), keyRoute(services, home))
	for i := range routes {
		routes[i].Path = "/ds/{serverName}" + routes[i].Path
	}
	return routes
}

func (s *Services) find(from, server string, home *Home) (api.API, error) {
	if err := s.requireName(server); err != nil {
		return nil, err
	}
	switch {
	case s.IsLocal(server) && !s.IsLocal(from): // a direct request: the user's own server sends events for the user
		return s.Local, nil
	case s.IsLocal(server):
		return &announcer{s.Local, home, server, true}, nil
	}
	return &announcer{s.Remote(from, server), home, server, false}, nil
}

// requireName fails unless users may name the server.
func (s *Services) requireName(server string) error {
	if err := mimiport.ValidateServerName(server); err != nil {
		return err
	}
	if mimiport.IsIPLiteral(server) && !s.AllowIPLiterals && !s.IsLocal(server) {
		return mimiport.Errorf("find server", mimiport.KindForbidden, "%s is an IP address", server)
	}
	return nil
}
