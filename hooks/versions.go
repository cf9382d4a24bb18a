package hooks

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/gorilla/mux"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// advertise adds this project to the unstable features in Dendrite's answer to /_matrix/client/versions. Dendrite keeps its
// feature map to itself and its route matches first, so the route's handler is wrapped.
func advertise(client *mux.Router) error {
	found := false
	err := client.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		if path, err := route.GetPathTemplate(); err != nil || path != "/_matrix/client/versions" {
			return nil // a route without a path is not the one
		}
		found = true
		route.Handler(withFeature(route.GetHandler()))
		return nil
	})
	if err == nil && !found {
		err = errors.New("mimi_portability: the homeserver has no route /_matrix/client/versions")
	}
	return err
}

func withFeature(versions http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := recorder{header: w.Header(), status: http.StatusOK}
		versions.ServeHTTP(&answer, r)
		w.WriteHeader(answer.status)
		_, _ = w.Write(addFeature(answer.body.Bytes()))
	})
}

// addFeature leaves alone what is not an answer of that route, such as the empty answer to OPTIONS.
func addFeature(body []byte) []byte {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil || fields["versions"] == nil {
		return body
	}
	features := map[string]bool{}
	_ = json.Unmarshal(fields["unstable_features"], &features)
	features[edge.Namespace] = true
	fields["unstable_features"], _ = json.Marshal(features)
	wider, _ := json.Marshal(fields)
	return wider
}

// recorder holds an answer back until it is complete.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
