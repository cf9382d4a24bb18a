package main

import (
	"crypto/ed25519"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Peers have chosen the server names in a database. fsck asks no server in a private network.
func TestFsckAsksNoPrivateNetwork(t *testing.T) {
	internal := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("was asked") }))
	defer internal.Close()
	key := filepath.Join(t.TempDir(), "key.pem")
	block := pem.Block{
		Type: "MATRIX PRIVATE KEY", Headers: map[string]string{"Key-ID": "ed25519:x"}, Bytes: make([]byte, ed25519.SeedSize),
	}
	if err := os.WriteFile(key, pem.EncodeToMemory(&block), 0o600); err != nil {
		t.Fatal(err)
	}
	ask, err := asker(key, "", false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ask(t.Context(), "s.example", internal.Listener.Addr().String(), mimiport.MigrationID{})
	if err == nil || !strings.Contains(err.Error(), "not a public address") {
		t.Errorf("got %v", err)
	}
}
