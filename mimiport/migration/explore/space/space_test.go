package space

import (
	"strings"
	"testing"
)

// TestSet: states have the numbers in which they first came, also beyond a page and when the table has grown.
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

// TestWriteStep: a step ends what was and no longer is, and begins what is and was not.
func TestWriteStep(t *testing.T) {
	var out strings.Builder
	WriteStep(&out, 7, "it happens", []string{"a", "b"}, []string{"b", "c"})
	if out.String() != "  7 it happens\n      - a\n      + c\n" {
		t.Errorf("%q", out.String())
	}
}
