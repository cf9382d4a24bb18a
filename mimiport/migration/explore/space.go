package explore

import "hash/maphash"

// space numbers keys in the order in which they come.
type space struct {
	size  int // of a key
	pages [][]byte
	count int
	table []uint32 // open addressing: numbers + 1
	seed  maphash.Seed
}

const pageKeys = 1 << 16

func newSpace(size int) space {
	return space{size: size, table: make([]uint32, pageKeys), seed: maphash.MakeSeed()}
}

func (s *space) len() int { return s.count }

func (s *space) key(n uint32) []byte {
	return s.pages[n/pageKeys][int(n%pageKeys)*s.size:][:s.size]
}

// place is where the number of a key is, or belongs, in the table.
func (s *space) place(k []byte) *uint32 {
	mask := uint64(len(s.table) - 1)
	for at := maphash.Bytes(s.seed, k) & mask; ; at = (at + 1) & mask {
		if n := s.table[at]; n == 0 || string(s.key(n-1)) == string(k) {
			return &s.table[at]
		}
	}
}

// add gives the number of a key: the next one, if it is new.
func (s *space) add(k []byte) uint32 {
	p := s.place(k)
	if *p != 0 {
		return *p - 1
	}
	if s.count%pageKeys == 0 {
		s.pages = append(s.pages, make([]byte, 0, pageKeys*s.size))
	}
	last := &s.pages[len(s.pages)-1]
	*last = append(*last, k...)
	s.count++
	*p = uint32(s.count)
	if 2*s.count > len(s.table) {
		s.grow()
	}
	return uint32(s.count - 1)
}

func (s *space) grow() {
	s.table = make([]uint32, 2*len(s.table))
	for n := range uint32(s.count) {
		*s.place(s.key(n)) = n + 1
	}
}

// budget is the faults that may still happen, at most 3 of each kind.
type budget struct{ crashes, losses, duplicates int8 }

// after is what is left after a step, if there was enough.
func (b budget) after(f fate) (budget, bool) {
	switch f {
	case repeated:
		b.duplicates--
	case lost:
		b.losses--
	case crashBefore, crashAfter:
		b.crashes--
	}
	return b, min(b.crashes, b.losses, b.duplicates) >= 0
}

func (b budget) sum() int { return int(b.crashes + b.losses + b.duplicates) }

// bit is the budget as one bit of 64, below those of all budgets that are no larger in anything.
func (b budget) bit() uint64 { return 1 << (b.crashes<<4 | b.losses<<2 | b.duplicates) }

func (b budget) below() uint64 {
	var set uint64
	for crashes := range b.crashes + 1 {
		for losses := range b.losses + 1 {
			for duplicates := range b.duplicates + 1 {
				set |= budget{crashes, losses, duplicates}.bit()
			}
		}
	}
	return set
}
