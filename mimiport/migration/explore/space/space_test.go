package space

import (
	"strings"
	"testing"
)

// TestSet: states have numbers in the order of their first Number, even beyond a page and after the table has grown.
func TestSet(t *testing.T) {
	s := NewSet[[2]int]()
	const n = 3 * pageSize
	for range 2 {
		for i := range n {
			if got := s.Number(&[2]int{i, -i}); int(got) != i {
				t.Fatalf("state %d has number %d", i, got)
			}
		}
	}
	if s.Len() != n || *s.At(n - 1) != [2]int{n - 1, 1 - n} {
		t.Errorf("there are %d states, the last one is %v", s.Len(), *s.At(n - 1))
	}
}

// TestWriteStep: a step ends the facts that were only before it, and begins the facts that are only after it.
func TestWriteStep(t *testing.T) {
	var out strings.Builder
	WriteStep(&out, 7, "it happens", []string{"a", "b"}, []string{"b", "c"})
	if out.String() != "  7 it happens\n      - a\n      + c\n" {
		t.Errorf("%q", out.String())
	}
}
