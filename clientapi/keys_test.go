package clientapi_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
)

func keyURI(server, id string) string {
	return "/keys/" + url.PathEscape(server) + "/" + url.PathEscape(id)
}

// A user gets the signed key object of a server from the own homeserver, which asks the server only if it has no
// current object of it.
func TestServerKey(t *testing.T) {
	pair := prooftest.Pair{ID: keyIDs[other], Key: key(other), Until: now.Add(time.Hour)}
	stale := pair
	stale.Until = now
	w := newWorld(t)
	w.keys.Stored = map[string][][]byte{other: {prooftest.KeyObject(other, stale)}}
	const refused = "IO.GITHUB.MIMIPORT.M_BAD_SIGNATURE"
	for name, c := range map[string]struct {
		at, server, id string
		status         int
		code           string
	}{
		"current":               {here, other, pair.ID, 200, ""},
		"own":                   {here, here, keyIDs[here], 200, ""},
		"unknown id":            {here, other, "ed25519:z", 403, refused},
		"a server out of reach": {here, "gone.example", pair.ID, 502, "IO.GITHUB.MIMIPORT.M_PEER_UNREACHABLE"},
		"no server name":        {here, "a/b", pair.ID, 400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"},
		"an address":            {here, "10.0.0.1", pair.ID, 403, "M_FORBIDDEN"},
		"at another server":     {other, here, keyIDs[here], 403, "M_FORBIDDEN"},
	} {
		w.expect(name, c.status, c.code)(w.call(c.at, "GET", keyURI(c.server, c.id), nil))
	}
	rec := httptest.NewRecorder()
	uri := clientapi.PathPrefix + "/ds/" + here + keyURI(other, pair.ID)
	w.handler.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, uri, nil))
	if diff := cmp.Diff(string(w.keys.Published[other]), strings.TrimSpace(rec.Body.String())); diff != "" {
		t.Error("another object than the published one:", diff)
	}

	asked := len(w.keys.Asked())
	w.keys.Stored[other] = [][]byte{w.keys.Published[other]}
	w.ok("stored")(w.call(here, "GET", keyURI(other, pair.ID), nil))
	if len(w.keys.Asked()) != asked {
		t.Error("the server was asked although its current object is stored")
	}
}
