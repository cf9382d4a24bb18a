package harness

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
)

// SigningKeyFile returns the path of the server's signing key, in PEM.
func (s *Server) SigningKeyFile() string { return filepath.Join(s.Dir, "matrix_key.pem") }

// Identity returns the server's name, its signing key and the id of the key.
func (s *Server) Identity() (*fclient.SigningIdentity, error) {
	text, err := os.ReadFile(s.SigningKeyFile())
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || len(block.Bytes) != ed25519.SeedSize {
		return nil, errors.New("the signing key's file is not in the format of the harness")
	}
	return &fclient.SigningIdentity{
		ServerName: spec.ServerName(s.Name),
		KeyID:      gomatrixserverlib.KeyID(block.Headers["Key-ID"]),
		PrivateKey: ed25519.NewKeyFromSeed(block.Bytes),
	}, nil
}

// FederationRequest makes a request to this server, signed by origin. content becomes the JSON body; nil means no body.
func (s *Server) FederationRequest(
	ctx context.Context, origin *fclient.SigningIdentity, method, uri string, content any,
) (*http.Request, error) {
	fr := fclient.NewFederationRequest(method, origin.ServerName, spec.ServerName(s.Name), uri)
	if content != nil {
		if err := fr.SetContent(content); err != nil {
			return nil, err
		}
	}
	if err := fr.Sign(origin.ServerName, origin.KeyID, origin.PrivateKey); err != nil {
		return nil, err
	}
	r, err := fr.HTTPRequest()
	if err != nil {
		return nil, err
	}
	r.URL.Scheme = strings.Replace(r.URL.Scheme, "matrix", "https", 1)
	return r.WithContext(ctx), nil
}
