package fsck

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// walk follows a lineage to the host it ends at. Signatures are checked by the keys archived with them, where there are any.
func walk(groupID []byte, l *mimiport.Lineage) (host string, err error) {
	if l.Preimage != nil && !bytes.Equal(l.Preimage.GroupID(), groupID) {
		return "", errors.New("the preimage is not the group id's")
	}
	host = l.CreatingServer
	for i := range l.Steps {
		if host, err = follow(groupID, host, &l.Steps[i]); err != nil {
			return "", fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return host, nil
}

// follow checks one step from a host and returns the next one.
func follow(groupID []byte, host string, step *mimiport.LineageStep) (string, error) {
	if step.Kind != mimiport.StepMigration {
		claim, err := mimiport.UnmarshalLineageClaim(step.Claim.Message)
		if err != nil {
			return "", err
		}
		if !bytes.Equal(claim.GroupID, groupID) {
			return "", errors.New("the claim is for another group")
		}
		return claim.DomainName, verify(claim.DomainName, step.Claim, claim)
	}
	response, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
	if err != nil {
		return "", err
	}
	confirmation, err := mimiport.UnmarshalMigrationConfirmation(step.Confirmation.Message)
	if err != nil {
		return "", err
	}
	r := &response.Request
	if r.SourceDomain != host || !bytes.Equal(r.GroupID, groupID) || !confirms(confirmation, response) {
		return "", fmt.Errorf("it does not lead on from %s", host)
	}
	return r.TargetDomain, errors.Join(verify(r.TargetDomain, &step.Response, response), verify(host, &step.Confirmation, confirmation))
}

// confirms says whether a confirmation is for an offer.
func confirms(c *mimiport.MigrationConfirmation, r *mimiport.MigrationResponse) bool {
	return c.DomainName == r.Request.TargetDomain && c.Nonce == r.Nonce && bytes.Equal(c.GroupID, r.Request.GroupID)
}

// verify checks a server's signature by the key object archived with it, if that has the key.
func verify(server string, s *mimiport.SignedMessage, m mimiport.Signed) error {
	var object struct {
		ServerName string `json:"server_name"`
		VerifyKeys map[string]struct {
			Key string `json:"key"`
		} `json:"verify_keys"`
	}
	if len(s.KeyObject) == 0 {
		return nil
	}
	if err := json.Unmarshal(s.KeyObject, &object); err != nil {
		return fmt.Errorf("the archived keys of %s: %w", server, err)
	}
	if object.ServerName != server {
		return fmt.Errorf("the archived keys of %s are those of %s", server, object.ServerName)
	}
	key, ok := object.VerifyKeys[s.KeyID]
	if !ok {
		return nil
	}
	raw, err := base64.RawStdEncoding.DecodeString(key.Key)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return fmt.Errorf("the archived key %s of %s is none", s.KeyID, server)
	}
	return mimiport.Verify(m, raw)
}
