package mls

import (
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// schemes are the names of the TLS SignatureScheme registry, by the engine's own, in lower case.
var schemes = map[string]string{
	"Ed25519": "ed25519",
	"Ed448":   "ed448",
	"P-256":   "ecdsa_secp256r1_sha256",
	"P-384":   "ecdsa_secp384r1_sha384",
	"P-521":   "ecdsa_secp521r1_sha512",
}

// SignatureScheme is the name of a group's signature scheme in the TLS SignatureScheme registry, which RFC 9420,
// section 17.1 refers to, in lower case. An unknown suite is KindUnsupported.
func SignatureScheme(of Context) (string, error) {
	var limits Limits // other engines have the numbers of RFC 9420
	if g, ok := of.(*group); ok {
		limits = g.limits
	}
	suite, err := limits.suiteOf("find signature scheme", of.CipherSuite())
	if err != nil {
		return "", err
	}
	return schemes[suite.Scheme.Name], nil
}

// VerifySignature checks a signature over a whole content by a public key as leaves have it. The scheme is one that
// SignatureScheme names. A signature that does not verify, or is of another scheme, is KindBadSignature.
func VerifySignature(scheme string, key, content, signature []byte) error {
	for name, registered := range schemes {
		if registered == scheme && rfc9420.VerifySignature(name, key, content, signature) {
			return nil
		}
	}
	const why = "the signature does not verify as %s"
	return mimiport.Errorf("verify signature", mimiport.KindBadSignature, why, mimiport.Clip(scheme))
}
