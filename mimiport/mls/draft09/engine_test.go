package draft09_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/draft09test"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/enginetest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

func TestEngine(t *testing.T) {
	enginetest.Run(t, draft09.New(), func(t testing.TB, id []byte, n int) enginetest.Members {
		return newMembers(t, 1, id, n)
	})
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// members are the real members of a group.
type members struct {
	testing.TB
	suite   uint16
	clients []*draft09test.Client          // by leaf, nil for a blank
	adds    map[string]*draft09test.Client // by proposal message
	removes map[string]uint32
	last    commit
}

// commit is the last Commit.
type commit struct {
	*draft09test.Commit
	proposals [][]byte
}

func newMembers(t testing.TB, suite uint16, id []byte, n int) *members {
	m := &members{TB: t, suite: suite, adds: map[string]*draft09test.Client{}, removes: map[string]uint32{}}
	first := m.client()
	if err := first.Create(id); err != nil {
		t.Fatal(err)
	}
	m.clients = append(m.clients, first)
	var adds [][]byte
	for range n - 1 {
		adds = append(adds, m.Add(0))
	}
	m.Commit(0, nil, adds...)
	m.Advance()
	return m
}

// client makes a client outside of the group.
func (m *members) client() *draft09test.Client {
	name := mlstest.Identity(fmt.Sprintf("@user%d:example.org", len(m.adds)+len(m.clients)), "DEVICE")
	return must(draft09test.NewClient(m.suite, name))(m)
}

func (m *members) GroupInfo() []byte   { return must(m.someone().GroupInfo())(m) }
func (m *members) RatchetTree() []byte { return must(m.someone().RatchetTree())(m) }
func (m *members) KeyPackage() []byte  { return must(m.client().KeyPackage())(m) }

// someone returns the member at the first non-blank leaf.
func (m *members) someone() *draft09test.Client {
	for _, c := range m.clients {
		if c != nil {
			return c
		}
	}
	return nil
}

func (m *members) Add(by uint32) []byte {
	c := m.client()
	message := must(m.clients[by].Add(must(c.KeyPackage())(m)))(m)
	m.adds[string(message)] = c
	return message
}

func (m *members) Update(by uint32) []byte { return must(m.clients[by].Update())(m) }

func (m *members) Remove(by, leaf uint32) []byte {
	message := must(m.clients[by].Remove(leaf))(m)
	m.removes[string(message)] = leaf
	return message
}

func (m *members) Commit(by uint32, authenticatedData []byte, proposals ...[]byte) *enginetest.Commit {
	m.Helper()
	c := must(m.clients[by].Commit(authenticatedData, proposals...))(m)
	m.last = commit{c, proposals}
	return &enginetest.Commit{Message: c.Message, GroupInfo: c.GroupInfo, Welcome: c.Welcome}
}

// Advance takes the clients through the last Commit: removed clients leave, the others follow, and added clients join.
// It checks that all members agree.
func (m *members) Advance() {
	m.Helper()
	for _, message := range m.last.proposals {
		m.deliver(message)
	}
	for _, message := range m.last.proposals {
		if leaf, ok := m.removes[string(message)]; ok {
			m.clients[leaf] = nil
		}
	}
	m.deliver(m.last.Message)
	for _, message := range m.last.proposals {
		if c, ok := m.adds[string(message)]; ok {
			if err := c.Join(m.last.Welcome); err != nil {
				m.Fatal(err)
			}
			m.place(c)
		}
	}
	m.agree()
}

func (m *members) place(c *draft09test.Client) {
	for uint32(len(m.clients)) <= c.Leaf() {
		m.clients = append(m.clients, nil)
	}
	m.clients[c.Leaf()] = c
}

func (m *members) deliver(message []byte) {
	m.Helper()
	for leaf, c := range m.clients {
		if c == nil {
			continue
		}
		if err := c.Handle(message); err != nil {
			m.Fatalf("member %d: %v", leaf, err)
		}
	}
}

// agree checks that all members are in the same state.
func (m *members) agree() {
	m.Helper()
	want := m.someone()
	for leaf, c := range m.clients {
		if c != nil && (c.Epoch() != want.Epoch() || !bytes.Equal(c.Authenticator(), want.Authenticator())) {
			m.Fatalf("epoch %d: member %d disagrees", want.Epoch(), leaf)
		}
	}
}

func (m *members) Application(by uint32) []byte {
	return must(m.clients[by].Protect([]byte("hello")))(m)
}

func (m *members) Sign(by uint32, label string, content []byte) []byte {
	return must(m.clients[by].Sign(label, content))(m)
}

func (m *members) open() mls.Group {
	m.Helper()
	return must(draft09.New().Open(m.GroupInfo(), nil))(m)
}

// TestMigrationCommit: the engine accepts an empty migration Commit, and one that references proposals and adds a
// member.
func TestMigrationCommit(t *testing.T) {
	aad := must((&mimiport.MigrationCommitAAD{TargetDomain: "b.example"}).Marshal())(t)
	for _, suite := range []uint16{1, 3} {
		m := newMembers(t, suite, []byte("group"), 3)
		g := m.open()
		for _, proposals := range [][][]byte{nil, {m.Remove(1, 2), m.Add(0), m.Add(1)}} {
			for _, message := range proposals {
				next, _, err := g.Propose(message)
				g = must(next, err)(t)
			}
			c := m.Commit(1, aad, proposals...)
			next, e, err := g.Commit(c.Message, c.GroupInfo)
			must(next, err)(t)
			switch {
			case !e.HasPath, !e.SameCredential, !bytes.Equal(e.AuthenticatedData, aad),
				e.Sender != mls.Sender{Type: mls.SenderMember, Index: 1},
				!bytes.Equal(e.ExtensionsBefore, e.ExtensionsAfter), len(next.ExternalSenders()) != 0:
				t.Errorf("effects of a migration Commit: %+v", e)
			}
			for _, p := range e.Proposals {
				if p.Ref == nil || p.Message == nil {
					t.Errorf("a proposal by value: %+v", p)
				}
			}
		}
		m.Advance()
		if epoch := m.someone().Epoch(); epoch != g.Epoch()+1 {
			t.Errorf("epoch %d", epoch)
		}
	}
}

// TestApplication: members can read an application message of another member.
func TestApplication(t *testing.T) {
	m := newMembers(t, 1, []byte("group"), 3)
	message := m.Application(1)
	for _, reader := range []int{0, 2} {
		if text := must(m.clients[reader].Unprotect(message))(t); string(text) != "hello" {
			t.Errorf("member %d reads %q", reader, text)
		}
	}
}

// TestCreate: the engine opens a new group of one member, which has no transcript hash yet, and follows its first
// Commit.
func TestCreate(t *testing.T) {
	m := newMembers(t, 1, []byte("group"), 1)
	alone := must(draft09test.NewClient(1, []byte("alone")))(t)
	if err := alone.Create([]byte("group")); err != nil {
		t.Fatal(err)
	}
	g := must(draft09.New().Open(must(alone.GroupInfo())(t), nil))(t)
	if g.Epoch() != 0 || g.NumMembers() != 1 || len(g.ConfirmedTranscriptHash()) != 0 {
		t.Errorf("epoch %d, %d members", g.Epoch(), g.NumMembers())
	}
	add := must(alone.Add(m.KeyPackage()))(t)
	next, _, err := g.Propose(add)
	g = must(next, err)(t)
	c := must(alone.Commit(nil, add))(t)
	next, _, err = g.Commit(c.Message, c.GroupInfo)
	if g = must(next, err)(t); g.Epoch() != 1 || g.NumMembers() != 2 {
		t.Errorf("epoch %d, %d members", g.Epoch(), g.NumMembers())
	}
}

// TestOtherProtocol: neither engine accepts a message of the other's protocol.
func TestOtherProtocol(t *testing.T) {
	m := newMembers(t, 1, []byte("group"), 2)
	other := mlstest.New(mlstest.Options{GroupID: []byte("group"), Members: [][]byte{{1}, {2}}})
	c := m.Commit(0, nil, m.Add(0))
	otherCommit := other.Commit(mlstest.CommitOptions{
		Proposals: []*mlstest.Proposal{other.Add(other.NewClient(nil))},
	})
	for _, message := range [][]byte{c.Message, c.GroupInfo, c.Welcome, m.Update(1), m.KeyPackage(), m.Application(1)} {
		if _, err := mls.RFC9420(mls.DefaultLimits()).Parse(message); mimiport.KindOf(err) != mimiport.KindUnsupported {
			t.Errorf("the engine for RFC 9420: %v", err)
		}
	}
	for _, message := range [][]byte{
		otherCommit.Message, otherCommit.GroupInfo, otherCommit.Welcome, other.Propose(1, other.Update(1)),
		other.NewClient(nil).KeyPackage(), other.Application(nil, 100),
	} {
		if _, err := draft09.New().Parse(message); mimiport.KindOf(err) != mimiport.KindBadMessage {
			t.Errorf("the engine for go-mls: %v", err)
		}
	}
}
