package draft09

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
)

// offered checks that the target has signed an offer, and that the offer is for the request.
func (c *client) offered(
	ctx context.Context, request []byte, offer *api.MigrationOffer,
) (*mimiport.MigrationResponse, error) {
	response, err := mimiport.UnmarshalMigrationResponse(offer.MigrationResponse)
	if err != nil {
		return nil, err
	}
	answered, err := response.Request.Marshal()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(answered, request) {
		return nil, errors.New("the offer is for another request")
	}
	return response, c.verify(ctx, response.Request.TargetDomain, offer.KeyID, response)
}

// confirmed checks that the source has signed a MigrationConfirmation for an offer.
func (c *client) confirmed(ctx context.Context, offer *mimiport.MigrationResponse, signed *api.SignedInfo) error {
	m, err := proof.Decision(offer, signed.Message)
	if err != nil {
		return err
	}
	return c.verify(ctx, offer.Request.SourceDomain, signed.KeyID, m)
}

// verify checks a server's signature with the server's present key.
func (c *client) verify(ctx context.Context, server, keyID string, m mimiport.Signed) error {
	key, err := c.serverKey(ctx, server, keyID)
	if err != nil {
		return fmt.Errorf("key of %s: %w", server, err)
	}
	return mimiport.Verify(m, key)
}

// serverKey asks the user's own homeserver, as a notary, for a key that is valid now (Matrix specification,
// server-server API, "Querying keys through another server"). Dendrite acts as a notary only if the request's Host is
// the server's name.
func (c *client) serverKey(ctx context.Context, server, keyID string) (ed25519.PublicKey, error) {
	now := spec.AsTimestamp(time.Now())
	criteria := map[string]map[string]spec.Timestamp{keyID: {"minimum_valid_until_ts": now}}
	query, err := json.Marshal(map[string]any{"server_keys": map[string]any{server: criteria}})
	if err != nil {
		return nil, err
	}
	uri := c.user.Server.URL + "/_matrix/key/v2/query"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, uri, bytes.NewReader(query))
	if err != nil {
		return nil, err
	}
	r.Host = c.user.Server.Name
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		ServerKeys []gomatrixserverlib.ServerKeys `json:"server_keys"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	for _, k := range answer.ServerKeys {
		key, ok := k.VerifyKeys[gomatrixserverlib.KeyID(keyID)]
		if ok && string(k.ServerName) == server && k.ValidUntilTS > now && len(key.Key) == ed25519.PublicKeySize {
			return ed25519.PublicKey(key.Key), nil
		}
	}
	return nil, fmt.Errorf("the server has no key %s that is valid now", keyID)
}
