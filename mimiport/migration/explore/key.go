package explore

import (
	"bytes"
	"encoding/binary"
)

// The sizes of the parts of a key, in bytes.
const (
	moveSize    = 8
	groupSize   = 4
	historySize = 3
)

// key is a state. Worlds that differ only in the members' names have one key. The part of a key that the bounds do not
// use is 0.
type key [maxSlots*moveSize + (maxTerms+1)*groupSize + members*historySize]byte

func (w *world) key(bounds Bounds) key {
	m := w.mirror()
	var k, mirrored key
	w.encode(k[:0], bounds)
	m.encode(mirrored[:0], bounds)
	if bytes.Compare(mirrored[:], k[:]) < 0 {
		return mirrored
	}
	return k
}

func (w *world) encode(b []byte, bounds Bounds) {
	for i := range w.moves[:bounds.Terms*members] {
		b = binary.BigEndian.AppendUint64(b, w.moves[i].bits())
	}
	for _, g := range w.groups[:bounds.Terms+1] {
		b = binary.BigEndian.AppendUint32(b, g.bits())
	}
	for _, h := range w.members {
		b = append(b, byte(h>>16), byte(h>>8), byte(h))
	}
}

// decode is the inverse of encode.
func decode(of *key, bounds Bounds) *world {
	w, k := new(world), of[:]
	for i := range w.moves[:bounds.Terms*members] {
		w.moves[i] = moveOf(binary.BigEndian.Uint64(k))
		k = k[moveSize:]
	}
	for t := range w.groups[:bounds.Terms+1] {
		w.groups[t] = groupOf(binary.BigEndian.Uint32(k))
		k = k[groupSize:]
	}
	for m := range w.members {
		w.members[m] = history(k[0])<<16 | history(k[1])<<8 | history(k[2])
		k = k[historySize:]
	}
	return w
}

// bits packs a move into 61 bits.
func (m *move) bits() uint64 {
	v := uint64(m.net)<<24 | uint64(m.base)
	v = v<<2 | bit(m.pending)<<1 | bit(m.over)
	return v<<26 | m.source.bits()<<13 | m.target.bits()
}

func moveOf(v uint64) move {
	return move{
		source: recordOf(v >> 13), target: recordOf(v),
		net: messages(v >> 52), base: history(v >> 28 & 0xffffff), pending: v>>27&1 != 0, over: v>>26&1 != 0,
	}
}

func (g *group) bits() uint32 { return uint32(g.state)<<28 | uint32(g.move)<<24 | uint32(g.history) }

func groupOf(v uint32) group {
	return group{groupState(v >> 28), slot(v >> 24 & 0xf), history(v & 0xffffff)}
}

// bits packs a record into 13 bits.
func (r *record) bits() uint64 {
	return bit(r.stored)<<12 | uint64(r.state)<<8 | uint64(r.holds)<<5 | uint64(r.rows)
}

func recordOf(v uint64) record {
	return record{state(v >> 8 & 15), messages(v >> 5 & 7), rows(v & 31), v>>12&1 != 0}
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
