package draft09test

import (
	gomls "github.com/cisco/go-mls"
	syntax "github.com/cisco/go-tls-syntax"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
)

// SignatureKey is the client's public signature key.
func (c *Client) SignatureKey() []byte { return c.signer.PublicKey.Data }

// SignPlaintext signs and encodes any handshake message of the client's epoch, even one that the engine must refuse.
func (c *Client) SignPlaintext(pt *gomls.MLSPlaintext) ([]byte, error) {
	context, err := encodeContext(c.state)
	if err != nil {
		return nil, err
	}
	if err := signPlaintext(c.state, context, pt); err != nil {
		return nil, err
	}
	return framing.Encode(pt)
}

func signPlaintext(s *gomls.State, context []byte, pt *gomls.MLSPlaintext) error {
	pt.Signature.Data = make([]byte, framing.SignatureSize)
	body, err := syntax.Marshal(pt)
	if err != nil {
		return err
	}
	pt.Signature.Data, err = s.Scheme.Sign(&s.IdentityPriv, framing.PlaintextContent(context, body))
	return err
}

// SignGroupInfo signs and encodes any GroupInfo.
func (c *Client) SignGroupInfo(info *gomls.GroupInfo) ([]byte, error) {
	return signGroupInfo(c.state, info)
}

func signGroupInfo(s *gomls.State, info *gomls.GroupInfo) ([]byte, error) {
	content, err := framing.GroupInfoContent(info)
	if err != nil {
		return nil, err
	}
	if info.Signature, err = s.Scheme.Sign(&s.IdentityPriv, content); err != nil {
		return nil, err
	}
	return framing.Encode(info)
}

// SignKeyPackage signs any key package with the client's key.
func (c *Client) SignKeyPackage(k *gomls.KeyPackage) error { return k.Sign(c.signer) }

// SignPath sets the parent hash of a path's leaf and signs the leaf with the client's key.
func (c *Client) SignPath(path *gomls.DirectPath) error {
	return path.Sign(path.LeafKeyPackage.CipherSuite, path.LeafKeyPackage.InitKey, c.signer, nil)
}
