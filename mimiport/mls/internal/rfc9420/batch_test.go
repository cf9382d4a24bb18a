package rfc9420

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/oasisprotocol/curve25519-voi/curve"
	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
)

// signer signs as an honest signer does, except that it adds points of small order to its key and to R.
type signer struct {
	random *rand.ChaCha8
	key, r *curve.EdwardsPoint // the points to add
	zero   []byte              // an encoding of the neutral point to take as R; nil for an R like others
}

// sign signs a content of its own until the signature is good for Verify, or bad, as want says.
func (s *signer) sign(want bool) Signed {
	for {
		var wide [scalar.ScalarWideSize]byte
		draw := func() *scalar.Scalar {
			_, _ = s.random.Read(wide[:])
			out, _ := scalar.NewFromBytesModOrderWide(wide[:])
			return out
		}
		secret, nonce := draw(), draw()
		point := func(secret *scalar.Scalar, more *curve.EdwardsPoint) []byte {
			p := new(curve.EdwardsPoint).MulBasepoint(curve.ED25519_BASEPOINT_TABLE, secret)
			var out curve.CompressedEdwardsY
			return out.SetEdwardsPoint(p.Add(p, more))[:]
		}
		key, r := point(secret, s.key), point(nonce, s.r)
		if s.zero != nil {
			nonce, r = scalar.New(), s.zero
		}
		content := fmt.Append(nil, s.random.Uint64())
		sum := sha512.Sum512(slices.Concat(r, key, content))
		k, _ := scalar.NewFromBytesModOrderWide(sum[:])
		var last [scalar.ScalarSize]byte
		_ = k.Add(k.Mul(k, secret), nonce).ToBytes(last[:])
		v := Signed{key, content, slices.Concat(r, last[:])}
		if suites[1].Verify(v.Key, v.Content, v.Signature) == want {
			return v
		}
	}
}

// TestBatchIsNoLaxer: a batch accepts honest signatures. It accepts no signature that Verify refuses, in particular
// none that fails by a point of small order: of R, or of the key.
func TestBatchIsNoLaxer(t *testing.T) {
	var none curve.EdwardsPoint
	none.Identity()
	suite := suites[1]
	random := rand.NewChaCha8([32]byte{1})
	honest := &signer{random, &none, &none, nil}
	var list []Signed
	for range 20 {
		list = append(list, honest.sign(true))
	}
	refuses := func(name string, v Signed) {
		t.Helper()
		for i := range 30 { // where the sums alone decide, half of the batches pass
			if suite.VerifyBatch(append(list[:i%20:i%20], append([]Signed{v}, list[i%20:]...)...), random) {
				t.Fatalf("a batch with %s", name)
			}
		}
	}
	if !suite.VerifyBatch(list, random) || !suite.VerifyAll(list) {
		t.Fatal("a batch of honest signatures")
	}
	flipped := honest.sign(true)
	flipped.Content = append(flipped.Content, 0)
	refuses("another content", flipped)
	// y = p + 1 in place of 1
	zero := slices.Concat([]byte{0xee}, bytes.Repeat([]byte{0xff}, 30), []byte{0x7f})
	refuses("R in another encoding", (&signer{random, &none, &none, zero}).sign(false))
	for i, torsion := range curve.EIGHT_TORSION[1:] {
		refuses(fmt.Sprintf("R beside point %d", i), (&signer{random, &none, torsion, nil}).sign(false))
		refuses(fmt.Sprintf("key beside point %d", i), (&signer{random, torsion, &none, nil}).sign(false))
		good := (&signer{random, torsion, &none, nil}).sign(true) // Verify takes it, so that only Verify can tell
		refuses(fmt.Sprintf("key beside point %d, good by luck", i), good)
	}
}

// TestBatchDecodes: a batch refuses what does not decode, or is not canonical, and everything without randomness.
func TestBatchDecodes(t *testing.T) {
	random := rand.NewChaCha8([32]byte{2})
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	good := func() Signed {
		return Signed{private.Public().(ed25519.PublicKey), []byte("content"), ed25519.Sign(private, []byte("content"))}
	}
	verify := func(v Signed) bool { return suites[1].VerifyBatch([]Signed{good(), v}, random) }
	if !verify(good()) {
		t.Error("good signatures")
	}
	for name, spoil := range map[string]func(*Signed){
		"a short key":       func(v *Signed) { v.Key = v.Key[:31] },
		"no key":            func(v *Signed) { v.Key = nil },
		"a short signature": func(v *Signed) { v.Signature = v.Signature[:63] },
		"no signature":      func(v *Signed) { v.Signature = nil },
		"s above the order": func(v *Signed) { v.Signature[63] |= 0xe0 },
		"R off the curve":   func(v *Signed) { copy(v.Signature, []byte{2}) },
	} {
		v := good()
		if spoil(&v); verify(v) {
			t.Errorf("a batch with %s", name)
		}
	}
	if suites[1].VerifyBatch([]Signed{good()}, iotest.ErrReader(errors.New("empty"))) {
		t.Error("a batch without randomness")
	}
	if suites[2].VerifyBatch(nil, random) {
		t.Error("a batch of another scheme")
	}
}

// FuzzBatch: whatever a batch accepts, Verify accepts.
func FuzzBatch(f *testing.F) {
	random := rand.NewChaCha8([32]byte{3})
	for _, torsion := range curve.EIGHT_TORSION {
		for _, s := range []*signer{{random, torsion, curve.EIGHT_TORSION[0], nil}, {random, torsion, torsion, nil}} {
			v := s.sign(torsion == curve.EIGHT_TORSION[0])
			f.Add(v.Key, v.Content, v.Signature)
		}
	}
	f.Fuzz(func(t *testing.T, key, content, signature []byte) {
		if suites[1].VerifyBatch([]Signed{{key, content, signature}}, rand.NewChaCha8([32]byte{4})) &&
			!suites[1].Verify(key, content, signature) {
			t.Error("a batch accepts what Verify refuses")
		}
	})
}
