package federation_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/gorilla/mux"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// Every request of another server gets an answer, and never with status 401 or 5xx.
func FuzzRoutes(f *testing.F) {
	for _, rt := range federation.Routes(&service{}, maxGroupState) {
		path := strings.NewReplacer("{groupId}", "AQID", "{migrationId}", id.String()).Replace(rt.Path)
		f.Add(rt.Method, path+"?user_id=%40alice%3As.example%3A8448", []byte(`{}`))
	}
	f.Add("GET", "/groups/AQID/messages?from=1&limit=2&term=3&user_id=%40alice%3As.example%3A8448", []byte{})
	f.Add("PUT", "/migrations/"+id.String()+"/content?sha256="+id.String()+"&key_id=a&decide_by=1", []byte("x"))
	auth := func(r *http.Request) (api.Caller, error) { return federation.Caller(source, target, r) }
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	edge.Mount(router, federation.Routes(&service{}, maxGroupState), auth,
		edge.NewBodies(256<<20), slog.New(slog.DiscardHandler))
	f.Fuzz(func(t *testing.T, method, uri string, body []byte) {
		u, err := url.ParseRequestURI(uri)
		if err != nil {
			return
		}
		r := &http.Request{Method: method, URL: u, Header: http.Header{}, Body: http.NoBody, ContentLength: int64(len(body))}
		if len(body) > 0 {
			r = httptest.NewRequest(http.MethodPut, "/", bytes.NewReader(body))
			r.Method, r.URL = method, u
		}
		w := httptest.NewRecorder()
		router.ServeHTTP(w, r)
		if w.Code == http.StatusUnauthorized || w.Code >= 500 {
			t.Fatalf("%s %s: %d %s", method, uri, w.Code, w.Body)
		}
	})
}

// BenchmarkContent sends a group state of 64 MiB, the default limit. It signs, authenticates, reads and hashes it.
func BenchmarkContent(b *testing.B) {
	n := &network{service: &service{}}
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	edge.Mount(router.PathPrefix(federation.PathPrefix).Subrouter(), federation.Routes(n.service, 64<<20), n.authenticate,
		edge.NewBodies(256<<20), slog.New(slog.DiscardHandler))
	n.handler = router
	up := &api.ContentUpload{ID: mimiport.MigrationID{1}, KeyID: "ed25519:a", DecideBy: now, Data: make([]byte, 64<<20)}
	up.SHA256 = sha256.Sum256(up.Data)
	b.SetBytes(int64(len(up.Data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client(n).PutContent(context.Background(), source, target, up); err != nil {
			b.Fatal(err)
		}
	}
}
