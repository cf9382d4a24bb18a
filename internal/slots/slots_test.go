package slots

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestSlots: for any sequence of calls, a key has at most its slots, other keys do not matter, and a key without a
// taken slot uses no memory.
func TestSlots(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perKey := rapid.IntRange(1, 3).Draw(t, "per key")
		s := New[string](perKey)
		frees := make(map[string][]func())
		keys := rapid.SampledFrom([]string{"a", "b", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				key := keys.Draw(t, "key")
				free, ok := s.Take(key)
				if want := len(frees[key]) < perKey; ok != want || (free != nil) != want {
					t.Fatalf("with %d of %d taken: %t", len(frees[key]), perKey, ok)
				}
				if ok {
					frees[key] = append(frees[key], free)
				}
			},
			"free": func(t *rapid.T) {
				key := keys.Draw(t, "key")
				if len(frees[key]) > 0 {
					i := rapid.IntRange(0, len(frees[key])-1).Draw(t, "which")
					frees[key][i]()
					frees[key] = slices.Delete(frees[key], i, i+1)
				}
			},
			"": func(t *rapid.T) {
				for key, q := range s.keys {
					if n := len(q.taken); n != len(frees[key]) || n != q.wanted || n == 0 {
						t.Fatalf("key %s has %d slots taken, not %d", key, n, len(frees[key]))
					}
				}
			},
		})
	})
}
