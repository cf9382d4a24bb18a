package rfc9420

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	_ "crypto/sha256" // the suites' hash functions
	_ "crypto/sha512"
	"io"
	"slices"

	"github.com/cloudflare/circl/sign/ed448"
	voi "github.com/oasisprotocol/curve25519-voi/primitives/ed25519"
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

// Suite is what a cipher suite computes without secrets (RFC 9420, section 17.1).
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

// SuiteByID is the cipher suite with an id, nil for an unknown one.
func SuiteByID(id uint16) *Suite { return suites[id] }

// hashes are the hash functions that a suite may have, by name.
var hashes = map[string]crypto.Hash{"SHA-256": crypto.SHA256, "SHA-384": crypto.SHA384, "SHA-512": crypto.SHA512}

// NewSuite is a cipher suite that RFC 9420 does not have: of a hash function and a signature scheme by name, and of a KEM whose public
// keys are strings of so many bytes. It is nil for an unknown name.
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

// VerifySignature checks a signature of a scheme, by name. It is false for an unknown name.
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

// ValidEncryptionKey reports whether key is a well-formed public key of the suite's KEM: its size, and for the NIST curves
// a point of the curve in uncompressed form.
func (s *Suite) ValidEncryptionKey(key []byte) bool { return s.validKEMKey(key) }

// Verify checks a signature over a content made by one of the SignContent functions.
func (s *Suite) Verify(key, content, signature []byte) bool {
	return s.Scheme.verify(key, content, signature)
}

// Signed is a content made by one of the SignContent functions, with its signature.
type Signed struct {
	Key, Content, Signature []byte
}

// VerifyBatch checks many signatures together: false if any is wrong. Only Ed25519 gains by it, and is checked by the rules of
// ZIP 215, cofactor included, which RFC 8032 allows: it accepts all that Verify accepts, and what a signer crafted so that
// Verify would not. Other schemes are checked one by one.
func (s *Suite) VerifyBatch(list []Signed, random io.Reader) bool {
	if s.Scheme.Name != schemeEd25519.Name || len(list) == 0 {
		return s.VerifyAll(list)
	}
	options := &voi.Options{Verify: voi.VerifyOptionsZIP_215}
	batch := voi.NewBatchVerifierWithCapacity(len(list))
	for _, v := range list {
		if len(v.Key) != ed25519.PublicKeySize || len(v.Signature) != ed25519.SignatureSize {
			return false
		}
		batch.AddWithOptions(v.Key, v.Content, v.Signature, options)
	}
	return batch.VerifyBatchOnly(random)
}

// VerifyAll checks signatures one by one.
func (s *Suite) VerifyAll(list []Signed) bool {
	for _, v := range list {
		if !s.Verify(v.Key, v.Content, v.Signature) {
			return false
		}
	}
	return true
}

// Sum is the suite's hash of the parts, one after the other.
func (s *Suite) Sum(parts ...[]byte) []byte {
	h := s.Hash.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// Ref is RefHash of a value under a label (RFC 9420, section 5.2).
func (s *Suite) Ref(label string, value []byte) []byte {
	return s.Sum(labelled(label, value))
}

// SignContent encodes the structure of that name (RFC 9420, section 5.1.2): the label, without its prefix, and the content
// in parts.
func SignContent(label string, parts ...[]byte) []byte {
	return labelled(signLabelPrefix+label, parts...)
}

// labelled is a label and a content, each as a vector. A content longer than a vector can be comes out empty: nothing
// signed or referenced by anybody else begins so.
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
