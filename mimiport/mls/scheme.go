package mls

import (
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// schemes maps the engine's names of signature schemes to those of the TLS SignatureScheme registry, in lower case.
var schemes = map[string]string{
	"Ed25519": "ed25519",
	"Ed448":   "ed448",
	"P-256":   "ecdsa_secp256r1_sha256",
	"P-384":   "ecdsa_secp384r1_sha384",
	"P-521":   "ecdsa_secp521r1_sha512",
}

// SignatureScheme returns the name of a group's signature scheme in the TLS SignatureScheme registry, in lower case
// (RFC 9420, section 17.1). It returns a KindUnsupported error for an unknown suite.
func SignatureScheme(of Context) (string, error) {
	var limits Limits // without further suites: other engines have only those of RFC 9420
	if g, ok := of.(*group); ok {
		limits = g.limits
	}
	suite, err := limits.suiteOf("find signature scheme", of.CipherSuite())
	if err != nil {
		return "", err
	}
	return schemes[suite.Scheme.Name], nil
}

// VerifySignature verifies a signature over content. key is a public key in the encoding of a leaf's signature_key.
// scheme is a name that SignatureScheme returns. VerifySignature returns a KindBadSignature error when the signature
// does not verify, and for an unknown scheme.
func VerifySignature(scheme string, key, content, signature []byte) error {
	for name, registered := range schemes {
		if registered == scheme && rfc9420.VerifySignature(name, key, content, signature) {
			return nil
		}
	}
	const why = "the signature does not verify as %s"
	return mimiport.Errorf("verify signature", mimiport.KindBadSignature, why, mimiport.Clip(scheme))
}
