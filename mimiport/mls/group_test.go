package mls

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

func identities(n int) (out [][]byte) {
	for i := range n {
		out = append(out, mlstest.Identity(fmt.Sprintf("@user%d:example.org", i), fmt.Sprintf("DEVICE%d", i)))
	}
	return out
}

// open opens a synthetic group.
func open(t testing.TB, g *mlstest.Group) Group {
	t.Helper()
	opened, err := RFC9420(DefaultLimits()).Open(g.GroupInfo(), g.RatchetTree())
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// commit applies a synthetic Commit and checks that engine and members agree.
func commit(t testing.TB, g Group, c *mlstest.Commit) (Group, *Effects) {
	t.Helper()
	next, effects, err := g.Commit(c.Message, c.GroupInfo)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(next.RatchetTree(), c.Next.RatchetTree()) {
		t.Fatal("the trees differ")
	}
	return next, effects
}

func propose(t testing.TB, g Group, message []byte) Group {
	t.Helper()
	next, _, err := g.Propose(message)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestLife(t *testing.T) {
	for suite := uint16(1); suite <= 7; suite++ {
		for _, populated := range []bool{false, true} {
			t.Run(fmt.Sprintf("suite%d/populated=%v", suite, populated), func(t *testing.T) {
				ds := mlstest.NewClient(99, suite, []byte("example.org"))
				m := mlstest.New(mlstest.Options{
					Seed: 1, CipherSuite: suite, GroupID: []byte("group"), Members: identities(5), Populated: populated,
					ExternalSenders: []*mlstest.Client{ds},
				})
				live(t, m, ds)
			})
		}
	}
}

// live takes a group of five through every kind of change.
func live(t *testing.T, m *mlstest.Group, ds *mlstest.Client) {
	g := open(t, m)
	step := func(o mlstest.CommitOptions) *Effects {
		t.Helper()
		for _, message := range o.References {
			g = propose(t, g, message)
		}
		c := m.Commit(o)
		next, effects := commit(t, g, c)
		g, m = next, c.Next
		return effects
	}
	client := func(name string) *mlstest.Client { return m.NewClient(mlstest.Identity("@"+name+":example.org", "D")) }
	e := step(mlstest.CommitOptions{Sender: 1, AuthenticatedData: []byte("aad")})
	if !e.HasPath || !e.SameCredential || string(e.AuthenticatedData) != "aad" || e.Committer.Leaf != 1 {
		t.Errorf("effects of an empty Commit: %+v", e)
	}
	e = step(mlstest.CommitOptions{Sender: 2, Proposals: []*mlstest.Proposal{m.Add(client("a")), m.Add(client("b"))}})
	if e.HasPath || len(e.Added) != 2 || e.Added[0].Leaf != 5 {
		t.Errorf("effects of two Adds: %+v", e)
	}
	step(mlstest.CommitOptions{
		Sender:     0,
		References: [][]byte{m.Propose(3, m.Update(3)), m.ProposeExternal(0, ds, m.Remove(1)), m.ProposeSelf(client("c"))},
		Proposals:  []*mlstest.Proposal{m.Add(client("d")), m.Add(client("e")), m.Add(client("f")), m.PSK([]byte("psk"))},
	})
	step(mlstest.CommitOptions{Joiner: client("g")})
	e = step(mlstest.CommitOptions{Joiner: m.Client(2), Proposals: []*mlstest.Proposal{m.Remove(2)}})
	if len(e.Removed) != 1 || e.Committer.Leaf != 2 {
		t.Errorf("effects of a resync: %+v", e)
	}
	for _, leaf := range m.Leaves()[3:] {
		step(mlstest.CommitOptions{Sender: 0, Proposals: []*mlstest.Proposal{m.Remove(leaf)}})
	}
	if g.NumMembers() != 3 {
		t.Errorf("%d members at the end", g.NumMembers())
	}
	e = step(mlstest.CommitOptions{Sender: 0, Proposals: []*mlstest.Proposal{m.ReInit([]byte("new"))}})
	if len(e.Proposals) != 1 || e.Proposals[0].Type != ProposalReInit {
		t.Errorf("effects of a ReInit: %+v", e)
	}
	open(t, m)
}
