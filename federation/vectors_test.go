package federation_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/internal/hexjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// requestVectors is the content of mimiport/testdata/content_requests.json.
type requestVectors struct {
	Destination, Origin string
	PublicKey           hexjson.Bytes `json:"public_key"`
	Cases               []struct {
		Name, Outcome, Method, URI, Authorization string
		ContentType                               string `json:"content_type"`
		Body                                      hexjson.Bytes
	}
}

// VerifyJSONs verifies signatures with the only key of the vectors.
func (v *requestVectors) VerifyJSONs(
	_ context.Context, requests []gomatrixserverlib.VerifyJSONRequest,
) ([]gomatrixserverlib.VerifyJSONResult, error) {
	results := make([]gomatrixserverlib.VerifyJSONResult, len(requests))
	for i, r := range requests {
		public := ed25519.PublicKey(v.PublicKey)
		results[i].Error = gomatrixserverlib.VerifyJSON(string(r.ServerName), "ed25519:a", public, r.Message)
	}
	return results, nil
}

func (v *requestVectors) authenticate(r *http.Request) (api.Caller, error) {
	fr, denial := fclient.VerifyHTTPRequest(r, now, spec.ServerName(v.Destination), nil, v)
	if fr == nil {
		return api.Caller{}, &edge.Denied{Status: denial.Code, Body: denial.JSON}
	}
	return federation.Caller(fr.Origin(), fr.Destination(), r)
}

// TestContentRequestVectors: the routes pass the content of each valid request to the service, and of no other request.
func TestContentRequestVectors(t *testing.T) {
	data, err := os.ReadFile("../mimiport/testdata/content_requests.json")
	if err != nil {
		t.Fatal(err)
	}
	var v requestVectors
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	svc := &service{}
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	edge.Mount(router.PathPrefix(federation.PathPrefix).Subrouter(), federation.Routes(svc, 1<<20), v.authenticate,
		edge.NewBodies(256<<20), slog.New(slog.DiscardHandler))
	for _, c := range v.Cases {
		svc.last = nil
		body := bytes.NewReader(c.Body)
		r := httptest.NewRequest(c.Method, c.URI, body)
		r.Header.Set("Authorization", c.Authorization)
		r.Header.Set("Content-Type", c.ContentType)
		w := httptest.NewRecorder()
		router.ServeHTTP(w, r)
		unread, _ := io.ReadAll(body)
		want := map[string]int{"valid": 200, "bad-signature": 401, "malformed": 400, "other-body": 400}[c.Outcome]
		if w.Code != want || c.Outcome == "bad-signature" && len(unread) != len(c.Body) {
			t.Errorf("%s: %d %s, %d bytes unread", c.Name, w.Code, w.Body, len(unread))
		}
		if want == 400 && !strings.Contains(w.Body.String(), "M_BAD_MESSAGE") {
			t.Errorf("%s: %s", c.Name, w.Body)
		}
		if given := len(svc.last) > 0 && svc.last[0] == "PutContent"; given != (c.Outcome == "valid") {
			t.Errorf("%s: the service got %+v", c.Name, svc.last)
		}
	}
	t.Logf("%d requests", len(v.Cases))
}
