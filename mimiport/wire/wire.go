// Package wire reads and writes the variable-size vectors of RFC 9420, section 2.1.2. A vector is a QUIC-style length
// in its shortest encoding, then the bytes.
//
// Readers never copy and never allocate: they return slices of the input.
package wire

import (
	"errors"

	"golang.org/x/crypto/cryptobyte"
)

// MaxVector is the largest length of a vector in bytes (RFC 9420, section 2.1.2).
const MaxVector = 1<<30 - 1

// ErrTooLong is the error of a builder that got a vector longer than MaxVector.
var ErrTooLong = errors.New("wire: vector longer than 2^30-1 bytes")

// ReadVarint reads a length. It returns false for a truncated length, for the reserved prefix 0b11, and for a length
// that is not in its shortest encoding.
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

// ReadVector reads a vector, `opaque x<V>` or `T x<V>`. contents becomes a slice of the input. ReadVector returns
// false when the length is malformed or longer than the input.
func ReadVector(s, contents *cryptobyte.String) bool {
	var n uint32
	var b []byte
	if !ReadVarint(s, &n) || !s.ReadBytes(&b, int(n)) {
		return false
	}
	*contents = b
	return true
}

// ReadOpaque is ReadVector for a byte slice.
func ReadOpaque(s *cryptobyte.String, b *[]byte) bool {
	return ReadVector(s, (*cryptobyte.String)(b))
}

// AddVarint appends the shortest encoding of a length n. It sets ErrTooLong on the builder when n is above MaxVector.
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

// AddVector appends a vector. f writes the contents into a builder of its own, because the length comes first and is
// known last.
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
