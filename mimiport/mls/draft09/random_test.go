package draft09_test

import (
	"math/rand/v2"
	"testing"
)

// TestRandomLife takes a group through many Commits of random proposals. A member makes each GroupInfo from its own
// state, so the engine agrees with the members on every epoch whose GroupInfo it accepts.
func TestRandomLife(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	m := newMembers(t, 1, []byte("group"), 2)
	g := m.open()
	for range 60 {
		by := m.anyone(random)
		proposals := m.someProposals(random, by)
		c := m.Commit(by, nil, proposals...)
		next, _, err := proposeAll(t, g, proposals...).Commit(c.Message, c.GroupInfo)
		g = must(next, err)(t)
		m.Advance()
	}
	t.Logf("%d members in %d leaves after %d epochs", g.NumMembers(), len(m.clients), g.Epoch())
}

// anyone returns the leaf of a random member.
func (m *members) anyone(random *rand.Rand) uint32 {
	for {
		if leaf := random.IntN(len(m.clients)); m.clients[leaf] != nil {
			return uint32(leaf)
		}
	}
}

// someProposals makes up to three proposals that the committer may commit together: none changes its own leaf, and no
// two change the same leaf.
func (m *members) someProposals(random *rand.Rand, committer uint32) (proposals [][]byte) {
	used := map[uint32]bool{committer: true}
	for range random.IntN(4) {
		by := m.anyone(random)
		switch kind := random.IntN(5); {
		case kind < 2 && len(m.clients) < 20:
			proposals = append(proposals, m.Add(by))
		case kind < 4 && !used[by]:
			used[by] = true
			proposals = append(proposals, m.Update(by))
		case kind == 4:
			if leaf := m.anyone(random); !used[leaf] {
				used[leaf] = true
				proposals = append(proposals, m.Remove(by, leaf))
			}
		}
	}
	return proposals
}
