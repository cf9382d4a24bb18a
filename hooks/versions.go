package hooks

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/gorilla/mux"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// advertise adds this project to the unstable features in Dendrite's answer to /_matrix/client/versions. It changes the
// answer, since Dendrite does not export its map of features.
func advertise(client *mux.Router) error {
	return wrap(client, "/_matrix/client/versions", withFeature)
}

func withFeature(versions http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := recorder{header: w.Header(), status: http.StatusOK}
		versions.ServeHTTP(&answer, r)
		w.WriteHeader(answer.status)
		_, _ = w.Write(addFeature(answer.body.Bytes()))
	})
}

// addFeature adds the feature to an answer. It does not change other bodies, such as the empty answer to OPTIONS.
func addFeature(body []byte) []byte {
	var fields map[string]json.RawMessage
	if json.Unmarshal(body, &fields) != nil || fields["versions"] == nil {
		return body
	}
	features := map[string]bool{}
	_ = json.Unmarshal(fields["unstable_features"], &features)
	features[api.Namespace], features[api.DirectFeature] = true, true
	fields["unstable_features"], _ = json.Marshal(features)
	wider, _ := json.Marshal(fields)
	return wider
}

// recorder keeps an answer until it is complete.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
