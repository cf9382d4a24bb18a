package explore

import (
	"bytes"
	"encoding/binary"
)

// The sizes of the parts of a key, in bytes.
const (
	moveSize    = 5
	groupSize   = 4
	historySize = 3
)

// keySize is the length in bytes of the keys of worlds with so many terms.
func keySize(terms int) int {
	return terms*members*moveSize + (terms+1)*groupSize + members*historySize
}

// key appends what is one for all worlds that differ only in the members' names.
func (w *world) key(buf []byte, terms int) []byte {
	m := w.mirror()
	mid, n := len(buf)+keySize(terms), len(buf)
	buf = m.encode(w.encode(buf, terms), terms)
	if bytes.Compare(buf[mid:], buf[n:mid]) < 0 {
		copy(buf[n:mid], buf[mid:])
	}
	return buf[:mid]
}

func (w *world) encode(b []byte, terms int) []byte {
	for i := range w.moves[:terms*members] {
		v := w.moves[i].bits()
		b = append(b, byte(v>>32), byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
	}
	for _, g := range w.groups[:terms+1] {
		b = binary.BigEndian.AppendUint32(b, uint32(g.state)<<28|uint32(g.move)<<24|uint32(g.history))
	}
	for _, h := range w.members {
		b = append(b, byte(h>>16), byte(h>>8), byte(h))
	}
	return b
}

// decode is the inverse of encode.
func decode(k []byte, terms int) *world {
	w := new(world)
	for i := range w.moves[:terms*members] {
		w.moves[i] = moveOf(uint64(k[0])<<32 | uint64(binary.BigEndian.Uint32(k[1:])))
		k = k[moveSize:]
	}
	for t := range w.groups[:terms+1] {
		v := binary.BigEndian.Uint32(k)
		w.groups[t] = group{groupState(v >> 28), slot(v >> 24 & 0xf), history(v & 0xffffff)}
		k = k[groupSize:]
	}
	for m := range w.members {
		w.members[m] = history(k[0])<<16 | history(k[1])<<8 | history(k[2])
		k = k[historySize:]
	}
	return w
}

// bits packs a move into 38 bits.
func (m *move) bits() uint64 {
	v := uint64(m.net)<<3 | uint64(m.epoch)
	v = v<<4 | bit(m.pending)<<3 | bit(m.late)<<2 | bit(m.expired)<<1 | bit(m.over)
	return v<<22 | m.source.bits()<<11 | m.target.bits()
}

func moveOf(v uint64) move {
	return move{
		source: recordOf(v >> 11), target: recordOf(v),
		net: messages(v >> 29), epoch: uint8(v >> 26 & 7),
		pending: v>>25&1 != 0, late: v>>24&1 != 0, expired: v>>23&1 != 0, over: v>>22&1 != 0,
	}
}

// bits packs a record into 11 bits.
func (r *record) bits() uint64 { return uint64(r.state)<<7 | uint64(r.holds)<<4 | uint64(r.rows) }

func recordOf(v uint64) record { return record{state(v >> 7 & 15), messages(v >> 4 & 7), rows(v & 15)} }

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
