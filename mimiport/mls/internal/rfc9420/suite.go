package rfc9420

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	_ "crypto/sha256" // the suites' hash functions
	_ "crypto/sha512"
	"slices"

	"github.com/cloudflare/circl/sign/ed448"
	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// Labels of SignWithLabel and RefHash (RFC 9420, sections 5.1.2 and 5.2).
const (
	LabelLeafNode      = "LeafNodeTBS"
	LabelKeyPackage    = "KeyPackageTBS"
	LabelFramedContent = "FramedContentTBS"
	LabelGroupInfo     = "GroupInfoTBS"

	LabelKeyPackageRef = "MLS 1.0 KeyPackage Reference"
	LabelProposalRef   = "MLS 1.0 Proposal Reference"
)

// signLabelPrefix starts every label of SignWithLabel.
const signLabelPrefix = "MLS 1.0 "

// Suite has the functions of a cipher suite that need no secrets (RFC 9420, section 17.1).
type Suite struct {
	ID     uint16
	Hash   crypto.Hash
	Scheme Scheme
	// validKEMKey reports whether a public key of the suite's KEM is well-formed.
	validKEMKey func(key []byte) bool
}

// Scheme is a signature scheme.
type Scheme struct {
	Name   string
	verify func(key, message, signature []byte) bool
}

var (
	schemeEd25519 = Scheme{"Ed25519", verifyEd25519}
	schemeEd448   = Scheme{"Ed448", verifyEd448}
	schemeP256    = Scheme{"P-256", verifyECDSA(elliptic.P256(), crypto.SHA256)}
	schemeP384    = Scheme{"P-384", verifyECDSA(elliptic.P384(), crypto.SHA384)}
	schemeP521    = Scheme{"P-521", verifyECDSA(elliptic.P521(), crypto.SHA512)}
)

var suites = map[uint16]*Suite{
	1: {1, crypto.SHA256, schemeEd25519, ofSize(32)},
	2: {2, crypto.SHA256, schemeP256, onCurve(ecdh.P256())},
	3: {3, crypto.SHA256, schemeEd25519, ofSize(32)},
	4: {4, crypto.SHA512, schemeEd448, ofSize(56)},
	5: {5, crypto.SHA512, schemeP521, onCurve(ecdh.P521())},
	6: {6, crypto.SHA512, schemeEd448, ofSize(56)},
	7: {7, crypto.SHA384, schemeP384, onCurve(ecdh.P384())},
}

// SuiteByID returns the cipher suite of RFC 9420 with an id, nil for an unknown id.
func SuiteByID(id uint16) *Suite { return suites[id] }

// hashes maps names to the hash functions that a suite may have.
var hashes = map[string]crypto.Hash{"SHA-256": crypto.SHA256, "SHA-384": crypto.SHA384, "SHA-512": crypto.SHA512}

// NewSuite makes a cipher suite that RFC 9420 does not have. hash and scheme are names. kemKey is the size of the KEM's
// public keys in bytes. NewSuite returns nil for an unknown name.
func NewSuite(id uint16, hash, scheme string, kemKey int) *Suite {
	h, found := hashes[hash]
	s, known := schemeByName(scheme)
	if !found || !known {
		return nil
	}
	return &Suite{id, h, s, ofSize(kemKey)}
}

func schemeByName(name string) (Scheme, bool) {
	all := []Scheme{schemeEd25519, schemeEd448, schemeP256, schemeP384, schemeP521}
	i := slices.IndexFunc(all, func(s Scheme) bool { return s.Name == name })
	if i < 0 {
		return Scheme{}, false
	}
	return all[i], true
}

// VerifySignature verifies a signature of the scheme with a name. It returns false for an unknown name.
func VerifySignature(scheme string, key, content, signature []byte) bool {
	s, ok := schemeByName(scheme)
	return ok && s.verify(key, content, signature)
}

func ofSize(n int) func([]byte) bool {
	return func(key []byte) bool { return len(key) == n }
}

func onCurve(curve ecdh.Curve) func([]byte) bool {
	return func(key []byte) bool {
		_, err := curve.NewPublicKey(key)
		return err == nil
	}
}

func verifyEd25519(key, message, signature []byte) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, signature)
}

func verifyEd448(key, message, signature []byte) bool {
	return len(key) == ed448.PublicKeySize && ed448.Verify(key, message, signature, "")
}

func verifyECDSA(curve elliptic.Curve, hash crypto.Hash) func(key, message, signature []byte) bool {
	return func(key, message, signature []byte) bool {
		public, err := ecdsa.ParseUncompressedPublicKey(curve, key)
		if err != nil {
			return false
		}
		h := hash.New()
		h.Write(message)
		return ecdsa.VerifyASN1(public, h.Sum(nil), signature)
	}
}

// ValidEncryptionKey reports whether key is a well-formed public key of the suite's KEM. A key of a NIST curve must be
// a point of the curve in uncompressed form. Any other key must have the right size.
func (s *Suite) ValidEncryptionKey(key []byte) bool { return s.validKEMKey(key) }

// Verify verifies a signature over content that a SignContent function has made.
func (s *Suite) Verify(key, content, signature []byte) bool {
	return s.Scheme.verify(key, content, signature)
}

// Signed is content that a SignContent function has made, with its signature and the public key.
type Signed struct {
	Key, Content, Signature []byte
}

// VerifyAll verifies signatures one by one.
func (s *Suite) VerifyAll(list []Signed) bool {
	for _, v := range list {
		if !s.Verify(v.Key, v.Content, v.Signature) {
			return false
		}
	}
	return true
}

// Sum hashes the concatenation of parts.
func (s *Suite) Sum(parts ...[]byte) []byte {
	h := s.Hash.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// Ref computes RefHash of a label and a value (RFC 9420, section 5.2).
func (s *Suite) Ref(label string, value []byte) []byte {
	return s.Sum(labelled(label, value))
}

// SignContent encodes the structure of that name (RFC 9420, section 5.1.2). label has no prefix. The content is the
// concatenation of parts.
func SignContent(label string, parts ...[]byte) []byte {
	return labelled(signLabelPrefix+label, parts...)
}

// labelled encodes a label and a content, each as a vector. It returns nil for content that is too long for a vector:
// no other label and content encode to nothing.
func labelled(label string, parts ...[]byte) []byte {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, len(label)+size+8))
	wire.AddOpaque(b, []byte(label))
	wire.AddVarint(b, size)
	for _, p := range parts {
		b.AddBytes(p)
	}
	out, err := b.Bytes()
	if err != nil {
		return nil
	}
	return out
}
