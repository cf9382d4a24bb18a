// Package rfc9420 has the public structures of RFC 9420 with their codecs, and the functions of its cipher suites that
// need no secrets.
//
// A decoded value holds slices of its input and copies nothing. A list stays encoded, so decoding allocates nothing
// for it: the decoder checks the list once, and iterators walk it. Every decoder refuses input that its encoder would
// not write identically.
package rfc9420

import (
	"encoding/binary"
	"iter"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// VersionMLS10 is the only protocol version of RFC 9420 (section 6).
const VersionMLS10 uint16 = 1

// Value is a structure with its codec. Decode reads the structure from the start of s and reports whether it is
// well-formed. It leaves the rest of the input in s.
type Value interface {
	Encode(*cryptobyte.Builder)
	Decode(s *cryptobyte.String) bool
}

// Marshal encodes v. It fails only for a vector of more than 2^30-1 bytes.
func Marshal(v Value) ([]byte, error) {
	var b cryptobyte.Builder
	v.Encode(&b)
	return b.Bytes()
}

// Unmarshal decodes data into v and reports whether data is exactly one such structure.
func Unmarshal(data []byte, v Value) bool {
	s := cryptobyte.String(data)
	return v.Decode(&s) && s.Empty()
}

// consumed returns the bytes between two positions of one string.
func consumed(before, after cryptobyte.String) []byte {
	n := len(before) - len(after)
	return before[:n:n]
}

// without returns raw without its last field, which is the vector last.
func without(raw, last []byte) []byte {
	n := len(raw) - len(last) - lengthSize(len(last))
	return raw[:n:n]
}

// lengthSize returns the size of the encoding of a vector's length n in bytes (RFC 9420, section 2.1.2).
func lengthSize(n int) int {
	switch {
	case n < 1<<6:
		return 1
	case n < 1<<14:
		return 2
	}
	return 4
}

// Uint16s is the encoded contents of a vector of 16-bit numbers.
type Uint16s []byte

// MakeUint16s encodes a list.
func MakeUint16s(list ...uint16) Uint16s {
	var out Uint16s
	for _, v := range list {
		out = binary.BigEndian.AppendUint16(out, v)
	}
	return out
}

func (u Uint16s) encode(b *cryptobyte.Builder) { wire.AddOpaque(b, u) }

func (u *Uint16s) decode(s *cryptobyte.String) bool {
	return wire.ReadOpaque(s, (*[]byte)(u)) && len(*u)%2 == 0
}

// List is the numbers in order. Tools show it.
func (u Uint16s) List() any { return slices.Collect(u.All()) }

// All yields the numbers in order.
func (u Uint16s) All() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for rest := u; len(rest) > 0; rest = rest[2:] {
			if !yield(binary.BigEndian.Uint16(rest)) {
				return
			}
		}
	}
}

// Uint32s is the encoded contents of a vector of 32-bit numbers.
type Uint32s []byte

func (u Uint32s) encode(b *cryptobyte.Builder) { wire.AddOpaque(b, u) }

func (u *Uint32s) decode(s *cryptobyte.String) bool {
	return wire.ReadOpaque(s, (*[]byte)(u)) && len(*u)%4 == 0
}

// Len counts the numbers.
func (u Uint32s) Len() int { return len(u) / 4 }

// At returns the number at position i.
func (u Uint32s) At(i int) uint32 { return binary.BigEndian.Uint32(u[4*i:]) }

// Slice returns the numbers from position i up to, but not including, position j.
func (u Uint32s) Slice(i, j int) Uint32s { return u[4*i : 4*j] }

// checkList reports whether read accepts every element of a vector's contents.
func checkList(contents []byte, read func(*cryptobyte.String) bool) bool {
	for s := cryptobyte.String(contents); !s.Empty(); {
		if !read(&s) {
			return false
		}
	}
	return true
}

func readOptional(s *cryptobyte.String, present *bool) bool {
	var flag uint8
	if !s.ReadUint8(&flag) || flag > 1 {
		return false
	}
	*present = flag == 1
	return true
}

func addOptional(b *cryptobyte.Builder, present bool) {
	if present {
		b.AddUint8(1)
	} else {
		b.AddUint8(0)
	}
}
