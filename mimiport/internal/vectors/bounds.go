package main

import (
	"encoding/hex"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// boundFile is the content of the file of lists at their bound. A case gives a long list by its repeated parts.
type boundFile struct {
	Cases []boundCase `json:"cases"`
}

// boundCase is a structure in parts. Its encoding is the concatenation of the parts.
type boundCase struct {
	Name    string `json:"name"`
	Struct  string `json:"struct"`
	Outcome string `json:"outcome"`
	Parts   []part `json:"parts"`
}

// part is a text of bytes that is repeated a number of times. CounterAt, if it is set, is the offset of 8 bytes that
// count up from 1.
type part struct {
	Bytes     string `json:"bytes"`
	Times     int    `json:"times"`
	CounterAt *int   `json:"counter_at,omitempty"`
}

// maxElements is the largest number of elements in a list (profile, section 4).
const maxElements = 1<<16 - 1

// list is a list of equal elements in a structure.
type list struct {
	name, structure string
	element         []byte
	counterAt       *int
	// around returns the encoding before and after the elements. size is the size of all elements in bytes.
	around func(size int) (before, after []byte)
}

func bounds(s *samples) *boundFile {
	f := new(boundFile)
	for _, l := range lists(s) {
		for _, c := range []struct {
			times   int
			name    string
			outcome string
		}{{maxElements, "65,535 ", "valid"}, {maxElements + 1, "65,536 ", "too-many"}} {
			before, after := l.around(c.times * len(l.element))
			f.Cases = append(f.Cases, boundCase{c.name + l.name, l.structure, c.outcome, []part{
				{hex.EncodeToString(before), 1, nil},
				{hex.EncodeToString(l.element), c.times, l.counterAt},
				{hex.EncodeToString(after), 1, nil},
			}})
		}
	}
	return f
}

func lists(s *samples) []list {
	steps := func(size int) (before, after []byte) {
		l := s.lineage
		l.Steps = nil
		encoded := mustMarshal(&l)
		return append(encoded[:len(encoded)-1], lengthOf(size)...), nil // this replaces the empty list
	}
	in := func(section mimiport.SectionType) func(int) ([]byte, []byte) {
		return func(size int) ([]byte, []byte) { return aroundSection(s, section, lengthOf(size), size) }
	}
	identity := mustMarshal(&mimiport.LeafIdentity{UserID: "u", DeviceID: "d"})
	inWelcome := func(size int) ([]byte, []byte) {
		start := slices.Concat(epochBytes(6), []byte{0, 1, 'w'}, lengthOf(size)) // no tree, a Welcome of one byte
		start = append(lengthOf(len(start)+size), start...)
		return aroundSection(s, mimiport.SectionWelcomes, start, size)
	}
	claim := []byte{byte(mimiport.StepReclaim), 1, 'c', 1, 'k', 0}
	entry := slices.Concat(epochBytes(0), epochBytes(0), epochBytes(4), []byte{0, 1, 'm', 0, 0})
	welcome := slices.Concat(epochBytes(0), []byte{0, 1, 'w', 0})
	atSeq, atEpoch := 8, 0
	return []list{
		{"steps", "Lineage", claim, nil, steps},
		{"proposals", "GroupState", []byte{1, 'p'}, nil, in(mimiport.SectionProposals)},
		{"messages of the log", "GroupState", entry, &atSeq, in(mimiport.SectionLog)},
		{"Welcomes", "GroupState", welcome, &atEpoch, in(mimiport.SectionWelcomes)},
		{"identities of a Welcome", "GroupState", identity, nil, inWelcome},
	}
}

// aroundSection returns the encoding of a group state before and after the last size bytes of one section's data. The
// data begins with start.
func aroundSection(s *samples, section mimiport.SectionType, start []byte, size int) (before, after []byte) {
	sections := sectionsOf(&s.state)
	at := slices.IndexFunc(sections, func(sec mimiport.Section) bool { return sec.Type == section })
	encode := func(list []mimiport.Section) []byte {
		encoded := encodeSections(1, list)
		return encoded[2+len(lengthOf(sizeOf(list))):]
	}
	head := append([]byte{byte(section >> 8), byte(section)}, lengthOf(len(start)+size)...)
	before = slices.Concat(encode(sections[:at]), head, start)
	after = encode(sections[at+1:])
	whole := append([]byte{0, 1}, lengthOf(len(before)+size+len(after))...)
	return append(whole, before...), after
}

// sizeOf returns the size of all sections in bytes.
func sizeOf(sections []mimiport.Section) (n int) {
	for _, s := range sections {
		n += 2 + len(lengthOf(len(s.Data))) + len(s.Data)
	}
	return n
}

func lengthOf(n int) []byte {
	var b cryptobyte.Builder
	wire.AddVarint(&b, n)
	return b.BytesOrPanic()
}
