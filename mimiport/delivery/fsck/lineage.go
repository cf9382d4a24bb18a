package fsck

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// archive is proof.Keys of those key objects alone that are archived with the messages.
type archive struct{}

// VerifyArchived checks a server's signature by the key object archived with it, if that has the key.
func (archive) VerifyArchived(_ context.Context, server, keyID string, keyObject []byte, m mimiport.Signed) error {
	var object struct {
		ServerName string `json:"server_name"`
		VerifyKeys map[string]struct {
			Key string `json:"key"`
		} `json:"verify_keys"`
	}
	if len(keyObject) == 0 {
		return nil
	}
	if err := json.Unmarshal(keyObject, &object); err != nil {
		return fmt.Errorf("the archived keys of %s: %w", server, err)
	}
	if object.ServerName != server {
		return fmt.Errorf("the archived keys of %s are those of %s", server, object.ServerName)
	}
	key, ok := object.VerifyKeys[keyID]
	if !ok {
		return nil
	}
	raw, err := base64.RawStdEncoding.DecodeString(key.Key)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return fmt.Errorf("the archived key %s of %s is none", keyID, server)
	}
	return mimiport.Verify(m, raw)
}
