package rfc9420

import (
	"crypto/ed25519"
	"crypto/sha512"
	"io"
	"math/rand/v2"

	"github.com/oasisprotocol/curve25519-voi/curve"
	"github.com/oasisprotocol/curve25519-voi/curve/scalar"
)

// A batch of Ed25519 signatures is one random combination of their equations. That holds also where single equations
// fail by a point of small order, so that a batch alone would accept signatures that verifyEd25519 refuses. This cannot
// happen where all keys and all R are in the subgroup of prime order, as all honest ones are. Hence a batch counts only
// if they are, which is again one check for all: torsionFree.

// subsets is the number of random sums by which a batch looks for a point outside the subgroup of prime order. Each sum
// misses such a point with a probability of at most 1/2.
const subsets = 64

// VerifyBatch verifies Ed25519 signatures together. If it returns true, Verify accepts each of them, except with a
// probability of 2^-64 for each call, over what it draws from random. If it returns false, only Verify can tell which
// signatures are good: they may all be. It always returns false for other schemes.
func (s *Suite) VerifyBatch(list []Signed, random io.Reader) bool {
	return s.Batches() && verifyTogether(list, random)
}

// Batches reports whether VerifyBatch can verify signatures of the suite.
func (s *Suite) Batches() bool { return s.Scheme.Name == schemeEd25519.Name }

func verifyTogether(list []Signed, random io.Reader) bool {
	var seed [32]byte
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return false
	}
	coins := rand.NewChaCha8(seed)
	// The sum of z·(R + k·A - s·B) over all signatures, with a random z of 128 bits for each.
	points := make([]*curve.EdwardsPoint, 0, 2*len(list)+1)
	factors := make([]*scalar.Scalar, 0, cap(points))
	sum := scalar.New()
	for i := range list {
		e, ok := equationOf(&list[i])
		if !ok {
			return false
		}
		var z, zk, zs scalar.Scalar
		var bytes [scalar.ScalarSize]byte
		_, _ = coins.Read(bytes[:16])       // it cannot fail
		_, _ = z.SetBytesModOrder(bytes[:]) // it has the right length
		points = append(points, &e.r, &e.a)
		factors = append(factors, &z, zk.Mul(&z, &e.k))
		sum.Add(sum, zs.Mul(&z, &e.s))
	}
	given := points
	points, factors = append(points, curve.ED25519_BASEPOINT_POINT), append(factors, sum.Neg(sum))
	return new(curve.EdwardsPoint).MultiscalarMulVartime(factors, points).IsIdentity() && torsionFree(given, coins)
}

// equation is the equation R + k·A = s·B of a signature.
type equation struct {
	r, a curve.EdwardsPoint
	k, s scalar.Scalar
}

// equationOf decodes a signature. It fails unless all encodings are canonical.
func equationOf(v *Signed) (e equation, ok bool) {
	if len(v.Key) != ed25519.PublicKeySize || len(v.Signature) != ed25519.SignatureSize {
		return e, false
	}
	r, s := v.Signature[:32], v.Signature[32:]
	if _, err := e.s.SetCanonicalBytes(s); err != nil || !decompress(&e.r, r) || !decompress(&e.a, v.Key) {
		return e, false
	}
	h := sha512.New()
	h.Write(r)
	h.Write(v.Key)
	h.Write(v.Content)
	_, err := e.k.SetBytesModOrderWide(h.Sum(nil))
	return e, err == nil
}

func decompress(p *curve.EdwardsPoint, encoded []byte) bool {
	y, err := curve.NewCompressedEdwardsYFromBytes(encoded)
	if err != nil || !y.IsCanonicalVartime() {
		return false
	}
	_, err = p.SetCompressedY(y)
	return err == nil
}

// torsionFree reports whether all points are in the subgroup of prime order, by random sums of them. It makes eight
// sums at a time: it adds each point to one of 256 buckets. The bits of a bucket's number say which sums have it.
func torsionFree(points []*curve.EdwardsPoint, coins *rand.ChaCha8) bool {
	const width = 8
	choices := make([]byte, len(points))
	for range subsets / width {
		_, _ = coins.Read(choices) // it cannot fail
		var buckets [1 << width]curve.EdwardsPoint
		for i := range buckets {
			buckets[i].Identity()
		}
		for i, p := range points {
			b := &buckets[choices[i]]
			b.Add(b, p)
		}
		for half := len(buckets) / 2; half > 0; half /= 2 {
			var sum curve.EdwardsPoint
			sum.Identity()
			for i := range half {
				sum.Add(&sum, &buckets[half+i])
				buckets[i].Add(&buckets[i], &buckets[half+i]) // the bit is done
			}
			if !inSubgroup(&sum) {
				return false
			}
		}
	}
	return true
}

// inSubgroup reports whether a point is in the subgroup of prime order.
func inSubgroup(p *curve.EdwardsPoint) bool {
	var product curve.EdwardsPoint
	order := []*scalar.Scalar{scalar.BASEPOINT_ORDER}
	return product.MultiscalarMulVartime(order, []*curve.EdwardsPoint{p}).IsIdentity()
}
