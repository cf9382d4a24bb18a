package hooks

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/gorilla/mux"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// surface is a table of routes, and its place among Dendrite's routes.
type surface struct {
	name         string // in metrics
	router       *mux.Router
	root, prefix string // the path of the router, and the path of the routes
	routes       []edge.Route
	auth         edge.Authenticate
}

func (a *surface) mount(metrics *edge.Metrics, bodies *edge.Bodies, log *slog.Logger) {
	sub := a.router.PathPrefix("/" + strings.TrimPrefix(a.prefix, a.root)).Subrouter()
	sub.Use(edge.CORS, metrics.Middleware(a.name))
	edge.Mount(sub, a.routes, a.auth, bodies, log)
}

// mountPage adds the operator's page, which only its own origin may read. The path without its last slash leads there.
func mountPage(router *mux.Router) {
	path := "/" + strings.TrimPrefix(adminapi.UIPath, "/_dendrite/")
	router.PathPrefix(path).Handler(adminapi.UI())
	router.Handle(strings.TrimSuffix(path, "/"), http.RedirectHandler(adminapi.UIPath, http.StatusMovedPermanently))
}

// wrap puts a handler around the handler of a Dendrite route. A second route with the same path would never match.
func wrap(router *mux.Router, path string, around func(http.Handler) http.Handler) error {
	found := false
	err := router.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		if template, err := route.GetPathTemplate(); err == nil && template == path {
			found = true
			route.Handler(around(route.GetHandler()))
		}
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("the homeserver has no route %s", path)
	}
	return err
}
