// Package space numbers the states that a search finds, and writes the changes by a step in words.
package space

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
)

// Set numbers states from 0 on, in the order of their first Number. For each state it needs the state's size and 4 to 8
// bytes more.
type Set[S comparable] struct {
	pages [][]S // the Set never copies a page when it grows
	count int
	table []uint32 // open addressing: numbers + 1
	seed  maphash.Seed
}

const pageSize = 1 << 14

// NewSet returns an empty set.
func NewSet[S comparable]() *Set[S] {
	return &Set[S]{table: make([]uint32, pageSize), seed: maphash.MakeSeed()}
}

// Len is the number of states.
func (s *Set[S]) Len() int { return s.count }

// At returns the state with a number. The caller must not change the state.
func (s *Set[S]) At(n uint32) *S { return &s.pages[n/pageSize][n%pageSize] }

// Number returns the number of a state. A new state gets the next number.
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

// place returns the slot of the table in which the number of a state is or belongs.
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

// WriteStep writes the n-th step of a trace: the event, the facts that it ended (with a minus sign) and the facts that
// it began (with a plus sign).
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
