package mlstest

import (
	"bytes"
	"testing"
)

// TestDeterminism: in every suite, one seed always makes the same group, and another seed another group.
func TestDeterminism(t *testing.T) {
	for suite := uint16(1); suite <= 7; suite++ {
		make := func(seed uint64) *Commit {
			g := New(Options{
				Seed: seed, CipherSuite: suite, GroupID: []byte("group"), Members: [][]byte{{1}, {2}, {3}}, Populated: true,
			})
			return g.Commit(CommitOptions{Sender: 1, Proposals: []*Proposal{g.Add(g.NewClient([]byte{4})), g.Remove(2)}})
		}
		one, same, other := make(1), make(1), make(2)
		if !bytes.Equal(one.Message, same.Message) || !bytes.Equal(one.GroupInfo, same.GroupInfo) ||
			!bytes.Equal(one.Welcome, same.Welcome) || !bytes.Equal(one.Next.RatchetTree(), same.Next.RatchetTree()) {
			t.Errorf("suite %d: one seed makes two groups", suite)
		}
		if bytes.Equal(one.Message, other.Message) {
			t.Errorf("suite %d: two seeds make one group", suite)
		}
	}
}
