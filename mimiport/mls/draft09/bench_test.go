package draft09_test

import (
	"fmt"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
)

// grow makes a group of n members. Only the first has a client.
func grow(t testing.TB, n int) *members {
	m := newMembers(t, 1, []byte("group"), 1)
	var adds [][]byte
	for range n - 1 {
		adds = append(adds, m.Add(0))
	}
	m.Commit(0, nil, adds...)
	m.clients[0].Merge()
	return m
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{8, 32, framing.MaxLeaves} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			groupInfo := grow(b, n).GroupInfo()
			b.SetBytes(int64(len(groupInfo)))
			for b.Loop() {
				if _, err := draft09.New().Open(groupInfo, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{8, 32, framing.MaxLeaves} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := grow(b, n)
			g, c := m.open(), m.Commit(0, nil)
			for b.Loop() {
				if _, _, err := g.Commit(c.Message, c.GroupInfo); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
