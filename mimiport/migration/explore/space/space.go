// Package space numbers the states that a search finds, and says in words what a step has changed.
package space

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
)

// Set numbers states from 0 on, in the order in which they come. It takes a state's size, and 4 to 8 bytes, for each.
type Set[S comparable] struct {
	pages [][]S // so that none is copied when there are more
	count int
	table []uint32 // open addressing: numbers + 1
	seed  maphash.Seed
}

const pageSize = 1 << 14

// NewSet is an empty set.
func NewSet[S comparable]() *Set[S] {
	return &Set[S]{table: make([]uint32, pageSize), seed: maphash.MakeSeed()}
}

// Len is how many states there are.
func (s *Set[S]) Len() int { return s.count }

// At is the state with a number. It must not be changed.
func (s *Set[S]) At(n uint32) *S { return &s.pages[n/pageSize][n%pageSize] }

// Number gives the number of a state, the next one if it is new.
func (s *Set[S]) Number(state *S) uint32 {
	p := s.place(state)
	if *p != 0 {
		return *p - 1
	}
	if s.count%pageSize == 0 {
		s.pages = append(s.pages, make([]S, pageSize))
	}
	s.pages[s.count/pageSize][s.count%pageSize] = *state
	s.count++
	*p = uint32(s.count)
	if 2*s.count > len(s.table) {
		s.grow()
	}
	return uint32(s.count - 1)
}

// place is where the number of a state is, or belongs, in the table.
func (s *Set[S]) place(state *S) *uint32 {
	mask := uint64(len(s.table) - 1)
	for at := maphash.Comparable(s.seed, *state) & mask; ; at = (at + 1) & mask {
		if n := s.table[at]; n == 0 || *s.At(n - 1) == *state {
			return &s.table[at]
		}
	}
}

func (s *Set[S]) grow() {
	s.table = make([]uint32, 2*len(s.table))
	for n := range uint32(s.count) {
		*s.place(s.At(n)) = n + 1
	}
}

// WriteStep writes the n-th step of a trace: what happened, and the facts that it ended, with a minus sign, and began,
// with a plus sign.
func WriteStep(out *strings.Builder, n int, what string, before, after []string) {
	fmt.Fprintf(out, "%3d %s\n", n, what)
	write := func(sign string, facts, others []string) {
		for _, f := range facts {
			if !slices.Contains(others, f) {
				fmt.Fprintf(out, "      %s %s\n", sign, f)
			}
		}
	}
	write("-", before, after)
	write("+", after, before)
}
