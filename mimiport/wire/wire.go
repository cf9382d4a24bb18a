// Package wire reads and writes the variable-size vectors of the TLS presentation language as RFC 9420,
// section 2.1.2, defines them: a QUIC-style length that must be the shortest possible, then the bytes.
//
// Readers never copy and never allocate: what they return is a slice of the input.
package wire

import (
	"errors"

	"golang.org/x/crypto/cryptobyte"
)

// MaxVector is the largest length a vector can state, in bytes (RFC 9420, section 2.1.2).
const MaxVector = 1<<30 - 1

// ErrTooLong is the builder error for a vector longer than MaxVector.
var ErrTooLong = errors.New("wire: vector longer than 2^30-1 bytes")

// ReadVarint reads a length. It reports false for a truncated length, the reserved prefix 0b11, and any length that
// is not encoded in the fewest bytes.
func ReadVarint(s *cryptobyte.String, n *uint32) bool {
	var first uint8
	if !s.ReadUint8(&first) {
		return false
	}
	v := uint32(first & 0x3f)
	switch first >> 6 {
	case 0:
		*n = v
		return true
	case 1:
		var low uint8
		if !s.ReadUint8(&low) {
			return false
		}
		*n = v<<8 | uint32(low)
		return *n >= 1<<6
	case 2:
		var low []byte
		if !s.ReadBytes(&low, 3) {
			return false
		}
		*n = v<<24 | uint32(low[0])<<16 | uint32(low[1])<<8 | uint32(low[2])
		return *n >= 1<<14
	}
	return false
}

// ReadVector reads a vector's contents, `opaque x<V>` or `T x<V>`, as a slice of the input.
func ReadVector(s, contents *cryptobyte.String) bool {
	var n uint32
	var b []byte
	if !ReadVarint(s, &n) || !s.ReadBytes(&b, int(n)) {
		return false
	}
	*contents = b
	return true
}

// ReadOpaque is ReadVector into a byte slice.
func ReadOpaque(s *cryptobyte.String, b *[]byte) bool {
	return ReadVector(s, (*cryptobyte.String)(b))
}

// AddVarint appends the shortest encoding of n.
func AddVarint(b *cryptobyte.Builder, n int) {
	switch {
	case n < 1<<6:
		b.AddUint8(uint8(n))
	case n < 1<<14:
		b.AddUint16(0x4000 | uint16(n))
	case n <= MaxVector:
		b.AddUint32(0x8000_0000 | uint32(n))
	default:
		b.SetError(ErrTooLong)
	}
}

// AddOpaque appends a vector of bytes.
func AddOpaque(b *cryptobyte.Builder, contents []byte) {
	AddVarint(b, len(contents))
	b.AddBytes(contents)
}

// AddVector appends a vector whose contents f writes. The length is only known afterwards, so the contents are built
// apart and copied once.
func AddVector(b *cryptobyte.Builder, f func(*cryptobyte.Builder)) {
	var inner cryptobyte.Builder
	f(&inner)
	contents, err := inner.Bytes()
	if err != nil {
		b.SetError(err)
		return
	}
	AddOpaque(b, contents)
}
