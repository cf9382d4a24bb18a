package rfc9420

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"errors"
	"io"

	"github.com/cloudflare/circl/sign/ed448"
)

// errPrivateKey is the error for a private key of the wrong length or out of range.
var errPrivateKey = errors.New("not a private key of the suite's signature scheme")

// SigningKey is a private signature key of one scheme.
type SigningKey struct {
	Public []byte
	sign   func(message []byte) ([]byte, error)
}

// GenerateSigningKey draws a private key for the suite's signature scheme. The key is a seed for EdDSA and a scalar for
// ECDSA.
func (s *Suite) GenerateSigningKey(random io.Reader) ([]byte, error) {
	switch s.Scheme.Name {
	case schemeEd25519.Name:
		return readBytes(random, ed25519.SeedSize)
	case schemeEd448.Name:
		return readBytes(random, ed448.SeedSize)
	}
	curve, _ := s.ecdsa()
	for {
		scalar, err := readBytes(random, (curve.Params().BitSize+7)/8)
		if err != nil {
			return nil, err
		}
		scalar[0] >>= len(scalar)*8 - curve.Params().BitSize
		if _, err := ecdsa.ParseRawPrivateKey(curve, scalar); err == nil {
			return scalar, nil // otherwise the scalar is 0 or not less than the order: draw again
		}
	}
}

func readBytes(random io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(random, b)
	return b, err
}

// SigningKey reads a private key in the form that GenerateSigningKey returns.
func (s *Suite) SigningKey(private []byte) (*SigningKey, error) {
	switch s.Scheme.Name {
	case schemeEd25519.Name:
		if len(private) != ed25519.SeedSize {
			return nil, errPrivateKey
		}
		key := ed25519.NewKeyFromSeed(private)
		sign := func(m []byte) ([]byte, error) { return ed25519.Sign(key, m), nil }
		return &SigningKey{key.Public().(ed25519.PublicKey), sign}, nil
	case schemeEd448.Name:
		if len(private) != ed448.SeedSize {
			return nil, errPrivateKey
		}
		key := ed448.NewKeyFromSeed(private)
		sign := func(m []byte) ([]byte, error) { return ed448.Sign(key, m, ""), nil }
		return &SigningKey{key.Public().(ed448.PublicKey), sign}, nil
	}
	curve, hash := s.ecdsa()
	key, err := ecdsa.ParseRawPrivateKey(curve, private)
	if err != nil {
		return nil, errPrivateKey
	}
	public, err := key.PublicKey.Bytes()
	return &SigningKey{public, func(m []byte) ([]byte, error) {
		h := hash.New()
		h.Write(m)
		return key.Sign(nil, h.Sum(nil), hash) // without randomness the signature is deterministic (RFC 6979)
	}}, err
}

func (s *Suite) ecdsa() (elliptic.Curve, crypto.Hash) {
	switch s.Scheme.Name {
	case schemeP256.Name:
		return elliptic.P256(), crypto.SHA256
	case schemeP384.Name:
		return elliptic.P384(), crypto.SHA384
	}
	return elliptic.P521(), crypto.SHA512
}

// Sign signs content that a SignContent function has made.
func (k *SigningKey) Sign(content []byte) ([]byte, error) { return k.sign(content) }
