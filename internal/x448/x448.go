// Package x448 is X448 (RFC 7748, section 5). It replaces a module that github.com/cisco/go-hpke imports and that is no
// longer available. It has only the functions that go-hpke calls.
package x448

import "github.com/cloudflare/circl/dh/x448"

// ScalarMult multiplies the point with u-coordinate base by scalar and sets out to the u-coordinate of the product.
// All have 56 bytes, little-endian. A base of low order gives zero.
func ScalarMult(out, scalar, base *[x448.Size]byte) {
	x448.Shared((*x448.Key)(out), (*x448.Key)(scalar), (*x448.Key)(base))
}

// ScalarBaseMult is ScalarMult with the base point, u = 5.
func ScalarBaseMult(out, scalar *[x448.Size]byte) {
	x448.KeyGen((*x448.Key)(out), (*x448.Key)(scalar))
}
