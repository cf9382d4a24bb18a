package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// newKey makes the file of a homeserver's key.
func newKey(t *testing.T) (file string) {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key.pem")
	block := pem.Block{
		Type: "MATRIX PRIVATE KEY", Headers: map[string]string{"Key-ID": "ed25519:x"}, Bytes: make([]byte, ed25519.SeedSize),
	}
	if err := os.WriteFile(key, pem.EncodeToMemory(&block), 0o600); err != nil {
		t.Fatal(err)
	}
	return key
}

// Peers have chosen the server names in a database. fsck asks no server in a private network.
func TestFsckAsksNoPrivateNetwork(t *testing.T) {
	internal := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("was asked") }))
	defer internal.Close()
	ask, err := asker(newKey(t), "", false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ask(t.Context(), "s.example", internal.Listener.Addr().String(), mimiport.MigrationID{})
	if err == nil || !strings.Contains(err.Error(), "not a public address") {
		t.Errorf("got %v", err)
	}
}

// fsck asks a server for which only an authority of the operator's own vouches, if the operator names the authority.
func TestFsckTrustsOwnAuthority(t *testing.T) {
	peer := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"state": "active"}`)) // the client is gone otherwise
	}))
	defer peer.Close()
	authority := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.Block{Type: "CERTIFICATE", Bytes: peer.Certificate().Raw}
	if err := os.WriteFile(authority, pem.EncodeToMemory(&block), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"": "certificate signed by unknown authority", authority: ""} {
		ask, err := asker(newKey(t), file, true)
		if err != nil {
			t.Fatal(err)
		}
		status, err := ask(t.Context(), "s.example", peer.Listener.Addr().String(), mimiport.MigrationID{})
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) ||
			want == "" && (err != nil || status.State != "active") {
			t.Errorf("with the authority %q: %+v, %v", file, status, err)
		}
	}
	if _, err := asker(newKey(t), newKey(t), true); err == nil || !strings.Contains(err.Error(), "has no certificate") {
		t.Errorf("a file without a certificate: %v", err)
	}
}

// A server that cannot be asked is a gap, which has an exit status of its own. A contradiction is a problem.
func TestFsckGaps(t *testing.T) {
	file := databases(t)[serverA]
	away := mimiport.Errorf("ask", mimiport.KindPeer, "no answer")
	for _, c := range []struct {
		answer *api.MigrationStatus
		err    error
		status int
		want   string
	}{
		{nil, away, statusGap, "b.example cannot be asked: ask: no answer"},
		{&api.MigrationStatus{State: "nonsense"}, nil, statusRefused, " at the source and nonsense at the target"},
	} {
		var out bytes.Buffer
		ask := func(context.Context, string, string, mimiport.MigrationID) (*api.MigrationStatus, error) {
			return c.answer, c.err
		}
		err := checkDatabase(t.Context(), "file:"+file, ask, stdio{out: &out, notes: &out})
		var f *failure
		status := statusRefused
		if errors.As(err, &f) {
			status = f.status
		}
		if err == nil || status != c.status || !strings.Contains(out.String(), c.want) {
			t.Errorf("status %d (%v), without %q:\n%s", status, err, c.want, &out)
		}
	}
}
