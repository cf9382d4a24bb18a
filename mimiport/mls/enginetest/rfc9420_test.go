package enginetest_test

import (
	"fmt"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/enginetest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

func TestRFC9420(t *testing.T) {
	seed := uint64(0)
	enginetest.Run(t, mls.RFC9420(mls.DefaultLimits()), func(_ testing.TB, id []byte, n int) enginetest.Members {
		seed++
		return newMembers(seed, id, n)
	})
}

// members are the members of a synthetic group.
type members struct {
	*mlstest.Group
	next   *mlstest.Group
	joined int // the number of clients made after the first members
}

func newMembers(seed uint64, id []byte, n int) *members {
	o := mlstest.Options{Seed: seed, GroupID: id, Populated: true}
	for i := range n {
		o.Members = append(o.Members, fmt.Appendf(nil, "member %d", i))
	}
	return &members{Group: mlstest.New(o)}
}

func (m *members) client() *mlstest.Client {
	m.joined++
	return m.NewClient(fmt.Appendf(nil, "client %d", m.joined))
}

func (m *members) Add(by uint32) []byte          { return m.Propose(by, m.Group.Add(m.client())) }
func (m *members) Update(by uint32) []byte       { return m.Propose(by, m.Group.Update(by)) }
func (m *members) Remove(by, leaf uint32) []byte { return m.Propose(by, m.Group.Remove(leaf)) }
func (m *members) Application(uint32) []byte     { return m.Group.Application(nil, 100) }
func (m *members) KeyPackage() []byte            { return m.client().KeyPackage() }
func (m *members) Advance()                      { m.Group = m.next }

func (m *members) Commit(by uint32, authenticatedData []byte, proposals ...[]byte) *enginetest.Commit {
	c := m.Group.Commit(mlstest.CommitOptions{Sender: by, References: proposals, AuthenticatedData: authenticatedData})
	m.next = c.Next
	return &enginetest.Commit{Message: c.Message, GroupInfo: c.GroupInfo, Welcome: c.Welcome}
}
