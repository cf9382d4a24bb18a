// Package rfc9420 holds the public structures of RFC 9420 as views of their encoding, and what its cipher suites
// compute without secrets.
//
// A decoded value holds slices of its input and never copies. Lists stay encoded: they are checked once, when decoded,
// and walked by iterators, so that decoding allocates nothing for them. Every decoder refuses what its encoder would
// not write identically.
package rfc9420

import (
	"encoding/binary"
	"iter"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// VersionMLS10 is the only protocol version there is (RFC 9420, section 6).
const VersionMLS10 uint16 = 1

// Value is a structure with its codec. Decode reports whether the structure is well-formed and leaves the rest of s.
type Value interface {
	Encode(*cryptobyte.Builder)
	Decode(s *cryptobyte.String) bool
}

// Marshal encodes v. It fails only for a vector longer than its length can state.
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

// consumed is what was read between two positions of one string.
func consumed(before, after cryptobyte.String) []byte {
	n := len(before) - len(after)
	return before[:n:n]
}

// without is raw less its last field, the vector last.
func without(raw, last []byte) []byte {
	n := len(raw) - len(last) - lengthSize(len(last))
	return raw[:n:n]
}

// lengthSize is how many bytes a vector's length n takes (RFC 9420, section 2.1.2).
func lengthSize(n int) int {
	switch {
	case n < 1<<6:
		return 1
	case n < 1<<14:
		return 2
	}
	return 4
}

// Uint16s is a vector of 16-bit numbers: its contents, encoded.
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

// List is the numbers in order, for people to read.
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

// Uint32s is a vector of 32-bit numbers: its contents, encoded.
type Uint32s []byte

func (u Uint32s) encode(b *cryptobyte.Builder) { wire.AddOpaque(b, u) }

func (u *Uint32s) decode(s *cryptobyte.String) bool {
	return wire.ReadOpaque(s, (*[]byte)(u)) && len(*u)%4 == 0
}

// Len is how many numbers there are.
func (u Uint32s) Len() int { return len(u) / 4 }

// At is the number at position i.
func (u Uint32s) At(i int) uint32 { return binary.BigEndian.Uint32(u[4*i:]) }

// Slice is the numbers from position i up to j.
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
