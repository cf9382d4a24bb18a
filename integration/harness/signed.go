package harness

import (
	"testing"

	"github.com/matrix-org/gomatrixserverlib/fclient"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// Signed signs a message with a server's key and returns it as a JSON body.
func Signed(t testing.TB, by *fclient.SigningIdentity, m interface {
	mimiport.Signed
	Marshal() ([]byte, error)
}) *api.SignedRequest {
	t.Helper()
	if err := mimiport.Sign(m, by.PrivateKey); err != nil {
		t.Fatal(err)
	}
	data, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return &api.SignedRequest{Message: data, KeyID: string(by.KeyID)}
}
