// Package enginetest is the test suite that every engine of package mls must pass, for any protocol.
package enginetest

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
)

// NewGroup makes a group for the engine under test. Its members are at leaves 0 to members-1 and have different
// identities.
type NewGroup func(t testing.TB, id []byte, members int) Members

// Members are the members of a group, all in one epoch, and clients that they can add. When a method fails, it fails
// the test.
type Members interface {
	GroupInfo() []byte
	RatchetTree() []byte

	// Add, Update and Remove make proposal messages of a member: to add a new client, to update the member's own leaf,
	// and to remove a leaf.
	Add(by uint32) []byte
	Update(by uint32) []byte
	Remove(by, leaf uint32) []byte

	// Commit makes a Commit of a member that references proposals. The members stay in their epoch.
	Commit(by uint32, authenticatedData []byte, proposals ...[]byte) *Commit

	// Advance moves the members to the epoch that the last Commit starts.
	Advance()

	Application(by uint32) []byte
	KeyPackage() []byte

	// Sign makes a signature that VerifyMember verifies.
	Sign(by uint32, label string, content []byte) []byte
}

// Commit is a Commit with its GroupInfo and Welcome.
type Commit struct {
	Message   []byte
	GroupInfo []byte // of the next epoch
	Welcome   []byte // nil when the Commit adds no client
}

// Run runs the suite.
func Run(t *testing.T, engine mls.Engine, newGroup NewGroup) {
	for name, test := range map[string]func(*suite){
		"Parse":            testParse,
		"Open":             testOpen,
		"Life":             testLife,
		"Follow":           testFollow,
		"RepeatedProposal": testRepeatedProposal,
		"WrongEpoch":       testWrongEpoch,
		"OtherGroup":       testOtherGroup,
		"WrongKind":        testWrongKind,
		"UnknownReference": testUnknownReference,
		"OtherGroupInfo":   testOtherGroupInfo,
		"Immutable":        testImmutable,
		"Concurrent":       testConcurrent,
		"VerifyMember":     testVerifyMember,
		"VerifyGroupInfo":  testVerifyGroupInfo,
		"Together":         testTogether,
		"Welcomes":         testWelcomes,
		"Mutations":        testMutations,
	} {
		t.Run(name, func(t *testing.T) {
			members := newGroup(t, []byte("group"), 5)
			s := &suite{T: t, engine: engine, newGroup: newGroup, members: members}
			s.group = s.open(members.GroupInfo(), members.RatchetTree())
			test(s)
		})
	}
}

// suite is one test: the members of a group and the engine's group.
type suite struct {
	*testing.T
	engine   mls.Engine
	newGroup NewGroup
	members  Members
	group    mls.Group
}

func (s *suite) open(groupInfo, tree []byte) mls.Group {
	s.Helper()
	g, err := s.engine.Open(groupInfo, tree)
	if err != nil {
		s.Fatal(err)
	}
	return g
}

func (s *suite) propose(message []byte) *mls.Proposal {
	s.Helper()
	next, p, err := s.group.Propose(message)
	if err != nil {
		s.Fatal(err)
	}
	s.group = next
	return p
}

func (s *suite) commit(c *Commit) *mls.Effects {
	s.Helper()
	next, effects, err := s.group.Commit(c.Message, c.GroupInfo)
	if err != nil {
		s.Fatal(err)
	}
	s.group = next
	return effects
}

// refused checks that an error is typed and of a kind.
func (s *suite) refused(err error, kinds ...mimiport.Kind) {
	s.Helper()
	if err == nil || !slices.Contains(kinds, mimiport.KindOf(err)) {
		s.Errorf("error %v of kind %d, want kind %v", err, mimiport.KindOf(err), kinds)
	}
}

// typed checks that an error, if there is one, is of a kind that bad input can cause.
func (s *suite) typed(err error) {
	s.Helper()
	var e *mimiport.Error
	if err != nil && (!errors.As(err, &e) || e.Kind == mimiport.KindInternal || e.Op == "") {
		s.Fatalf("an error without a kind or an operation: %v", err)
	}
}

// view prints the whole visible state of a group.
func view(g mls.Group) string {
	var proposals []string
	for _, p := range g.Proposals() {
		proposals = append(proposals, fmt.Sprintf("%x %d %v", p.Ref, p.Type, p.Sender))
	}
	return fmt.Sprintf("%s %x %d %d %x %x %x %x %x %d %v %v", g.Protocol(), g.ID(), g.Epoch(), g.CipherSuite(),
		g.TreeHash(), g.ConfirmedTranscriptHash(), g.ConfirmationTag(), g.GroupInfo(), g.RatchetTree(), g.NumMembers(),
		slices.Collect(g.Members()), proposals)
}

// same checks that two groups have the same visible state.
func (s *suite) same(got, want mls.Group) {
	s.Helper()
	if view(got) != view(want) {
		s.Errorf("the group is\n%s\nwant\n%s", view(got), view(want))
	}
}

func testParse(s *suite) {
	update, committed := s.members.Update(1), s.members.Commit(2, []byte("aad"), s.members.Add(0))
	epoch := s.group.Epoch()
	member := func(leaf uint32) mls.Sender { return mls.Sender{Type: mls.SenderMember, Index: leaf} }
	for name, c := range map[string]struct {
		message []byte
		want    mls.Message
	}{
		"proposal": {update, mls.Message{
			Kind: mls.KindProposal, GroupID: s.group.ID(), Epoch: epoch, Sender: member(1),
		}},
		"commit": {committed.Message, mls.Message{
			Kind: mls.KindCommit, GroupID: s.group.ID(), Epoch: epoch, Sender: member(2), AuthenticatedData: []byte("aad"),
		}},
		"application": {
			s.members.Application(0), mls.Message{Kind: mls.KindApplication, GroupID: s.group.ID(), Epoch: epoch},
		},
		"welcome":     {committed.Welcome, mls.Message{Kind: mls.KindWelcome}},
		"group info":  {committed.GroupInfo, mls.Message{Kind: mls.KindGroupInfo, GroupID: s.group.ID(), Epoch: epoch + 1}},
		"key package": {s.members.KeyPackage(), mls.Message{Kind: mls.KindKeyPackage}},
	} {
		got, err := s.engine.Parse(c.message)
		if err != nil {
			s.Errorf("%s: %v", name, err)
			continue
		}
		if got.Kind != c.want.Kind || !bytes.Equal(got.GroupID, c.want.GroupID) || got.Epoch != c.want.Epoch ||
			got.Sender != c.want.Sender || !bytes.Equal(got.AuthenticatedData, c.want.AuthenticatedData) {
			s.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		for n := range c.message {
			_, err := s.engine.Parse(c.message[:n])
			s.refused(err, mimiport.KindBadMessage, mimiport.KindUnsupported)
		}
		_, err = s.engine.Parse(append(slices.Clone(c.message), 0))
		s.refused(err, mimiport.KindBadMessage)
	}
}

func testOpen(s *suite) {
	if s.group.Protocol() != s.engine.Protocol() || string(s.group.ID()) != "group" || s.group.NumMembers() != 5 ||
		!bytes.Equal(s.group.GroupInfo(), s.members.GroupInfo()) ||
		!bytes.Equal(s.group.RatchetTree(), s.members.RatchetTree()) {
		s.Errorf("the group is %s", view(s.group))
	}
	for want, m := range slices.Collect(s.group.Members()) {
		again, ok := s.group.Member(uint32(want))
		if m.Leaf != uint32(want) || !ok || !bytes.Equal(again.Identity, m.Identity) || len(m.Identity) == 0 {
			s.Errorf("member %d is %+v and %+v", want, m, again)
		}
	}
	for _, leaf := range []uint32{5, 1 << 20, 1<<32 - 1} {
		if _, ok := s.group.Member(leaf); ok {
			s.Errorf("there is a member %d", leaf)
		}
	}
	if s.group.Size() < len(s.group.RatchetTree()) {
		s.Errorf("%d bytes", s.group.Size())
	}
	other := s.newGroup(s, []byte("other"), 4)
	_, err := s.engine.Open(s.members.GroupInfo(), other.RatchetTree())
	s.refused(err, mimiport.KindInvalid)
	_, err = s.engine.Open(s.members.KeyPackage(), nil)
	s.refused(err, mimiport.KindBadMessage)
	_, err = s.engine.Open(nil, nil)
	s.refused(err, mimiport.KindBadMessage)
}

// advance commits and lets engine and members follow. It checks that the members' state opens as the engine's group,
// and goes on with the opened group.
func (s *suite) advance(by uint32, proposals ...[]byte) *mls.Effects {
	s.Helper()
	for _, message := range proposals {
		s.propose(message)
	}
	e := s.commit(s.members.Commit(by, []byte("aad"), proposals...))
	s.members.Advance()
	exported := s.open(s.group.GroupInfo(), s.group.RatchetTree())
	s.same(exported, s.group)
	if !bytes.Equal(exported.RatchetTree(), s.members.RatchetTree()) {
		s.Error("the members have another tree")
	}
	s.group = exported
	if e.Sender != (mls.Sender{Type: mls.SenderMember, Index: by}) || string(e.AuthenticatedData) != "aad" ||
		e.Committer.Leaf != by || len(e.Proposals) != len(proposals) || !e.SameCredential ||
		!bytes.Equal(e.ExtensionsBefore, e.ExtensionsAfter) {
		s.Errorf("effects: %+v", e)
	}
	return e
}

func testLife(s *suite) {
	e := s.advance(0)
	if !e.HasPath || len(e.Added)+len(e.Removed)+len(e.Updated) != 0 {
		s.Errorf("effects of an empty Commit: %+v", e)
	}
	e = s.advance(1, s.members.Add(2), s.members.Add(1))
	if len(e.Added) != 2 || e.Added[0].Leaf != 5 || s.group.NumMembers() != 7 || e.Proposals[0].Add == nil {
		s.Errorf("effects of two Adds: %+v", e)
	}
	before, _ := s.group.Member(3)
	e = s.advance(4, s.members.Update(3), s.members.Remove(0, 5))
	if !e.HasPath || len(e.Updated) != 1 || e.Updated[0].Leaf != 3 || len(e.Removed) != 1 || e.Removed[0].Leaf != 5 {
		s.Errorf("effects of an Update and a Remove: %+v", e)
	}
	if after, _ := s.group.Member(3); !bytes.Equal(after.Identity, before.Identity) {
		s.Errorf("the Update made %+v of %+v", after, before)
	}
	e = s.advance(3, s.members.Remove(3, 0), s.members.Add(4))
	if !e.HasPath || len(e.Added) != 1 || e.Added[0].Leaf != 0 || s.group.NumMembers() != 6 {
		s.Errorf("effects of a Remove and an Add: %+v", e)
	}
}

// testFollow: a group that follows Commits without GroupInfos has the same state except for the GroupInfo.
func testFollow(s *suite) {
	f, ok := s.group.(mls.Follower)
	if !ok {
		s.Fatal("the group is not a Follower")
	}
	c := s.members.Commit(3, nil)
	followed, _, err := f.Follow(c.Message)
	if err != nil {
		s.Fatal(err)
	}
	s.commit(c)
	if len(followed.GroupInfo()) != 0 || !bytes.Equal(followed.TreeHash(), s.group.TreeHash()) ||
		!bytes.Equal(followed.ConfirmedTranscriptHash(), s.group.ConfirmedTranscriptHash()) {
		s.Errorf("followed %s, want %s", view(followed), view(s.group))
	}
}

func testRepeatedProposal(s *suite) {
	message := s.members.Update(1)
	first := s.propose(message)
	once := view(s.group)
	again := s.propose(message)
	if view(s.group) != once || len(s.group.Proposals()) != 1 || !bytes.Equal(first.Ref, again.Ref) ||
		!bytes.Equal(again.Message, message) {
		s.Errorf("the repeated proposal is %+v in %s", again, view(s.group))
	}
}

// testTogether: the engine refuses a proposal that no Commit can have together with the pending ones. One Commit can
// have all other proposals.
func testTogether(s *suite) {
	accepted := [][]byte{s.members.Remove(0, 1), s.members.Update(3), s.members.Add(4)}
	var described []*mls.Proposal
	for _, message := range accepted {
		described = append(described, s.propose(message))
	}
	if p := described[1]; p.Update == nil || p.Update.Leaf != 3 || len(p.Update.Identity) == 0 {
		s.Errorf("the Update is %+v", p)
	}
	seen := view(s.group)
	for _, message := range [][]byte{
		s.members.Remove(2, 1), s.members.Update(1), s.members.Update(3), s.members.Remove(0, 3), s.members.Remove(3, 3),
	} {
		_, _, err := s.group.Propose(message)
		s.refused(err, mimiport.KindInvalid)
	}
	if view(s.group) != seen || s.group.Closed() || len(s.group.Duplicates()) > 0 {
		s.Error("a refused proposal has changed the group")
	}
	e := s.commit(s.members.Commit(2, nil, accepted...))
	if len(e.Removed) != 1 || len(e.Updated) != 1 || len(e.Added) != 1 || e.Closes {
		s.Errorf("effects: %+v", e)
	}
	if len(e.Renewed) != 1 || e.Renewed[0].Leaf != e.Added[0].Leaf {
		s.Errorf("renewed: %+v", e.Renewed)
	}
}

func testWrongEpoch(s *suite) {
	update, c := s.members.Update(1), s.members.Commit(1, nil)
	s.advance(0)
	_, _, err := s.group.Propose(update)
	s.refused(err, mimiport.KindWrongEpoch)
	var e *mimiport.Error
	if !errors.As(err, &e) || e.Info.Epoch == nil || *e.Info.Epoch != s.group.Epoch() {
		s.Errorf("the error does not have the epoch: %v", err)
	}
	_, _, err = s.group.Commit(c.Message, c.GroupInfo)
	s.refused(err, mimiport.KindWrongEpoch)
}

func testOtherGroup(s *suite) {
	other := s.newGroup(s, []byte("other"), 5)
	_, _, err := s.group.Propose(other.Update(1))
	s.refused(err, mimiport.KindUnknownGroup)
	c := other.Commit(1, nil)
	_, _, err = s.group.Commit(c.Message, c.GroupInfo)
	s.refused(err, mimiport.KindUnknownGroup)
	twin := s.newGroup(s, []byte("group"), 5) // the same id, other keys
	_, _, err = s.group.Propose(twin.Update(1))
	s.refused(err, mimiport.KindBadSignature)
}

func testWrongKind(s *suite) {
	c := s.members.Commit(1, nil, s.members.Add(0))
	_, _, err := s.group.Propose(c.Message)
	s.refused(err, mimiport.KindBadMessage)
	_, _, err = s.group.Commit(s.members.Update(1), c.GroupInfo)
	s.refused(err, mimiport.KindBadMessage)
	for _, message := range [][]byte{c.Welcome, c.GroupInfo, s.members.KeyPackage(), nil} {
		_, _, err = s.group.Propose(message)
		s.refused(err, mimiport.KindBadMessage)
	}
	_, _, err = s.group.Propose(s.members.Application(0))
	s.refused(err, mimiport.KindUnsupported)
}

func testUnknownReference(s *suite) {
	c := s.members.Commit(1, nil, s.members.Add(0))
	_, _, err := s.group.Commit(c.Message, c.GroupInfo)
	s.refused(err, mimiport.KindInvalid)
}

func testOtherGroupInfo(s *suite) {
	c, other := s.members.Commit(1, nil), s.members.Commit(2, nil)
	for _, groupInfo := range [][]byte{
		s.members.GroupInfo(), other.GroupInfo, s.newGroup(s, []byte("other"), 5).GroupInfo(),
	} {
		_, _, err := s.group.Commit(c.Message, groupInfo)
		s.refused(err, mimiport.KindInvalid)
	}
	for _, message := range [][]byte{nil, c.Message, s.members.KeyPackage()} {
		_, _, err := s.group.Commit(c.Message, message)
		s.refused(err, mimiport.KindBadMessage)
	}
}

func testImmutable(s *suite) {
	empty, seen := s.group, view(s.group)
	proposals := [][]byte{s.members.Update(1), s.members.Remove(0, 2), s.members.Add(4)}
	for _, message := range proposals {
		s.propose(message)
	}
	full, seenFull := s.group, view(s.group)
	first, second := s.members.Commit(0, nil, proposals...), s.members.Commit(3, nil, proposals[0])
	s.commit(first)
	if view(empty) != seen || view(full) != seenFull {
		s.Error("an earlier group has changed")
	}
	s.group = full
	s.commit(second)
	if view(empty) != seen || view(full) != seenFull || len(s.group.Proposals()) != 0 {
		s.Error("an earlier group has changed")
	}
}

// testConcurrent: many goroutines can use one group at a time. The race detector checks it.
func testConcurrent(s *suite) {
	add := s.members.Add(0)
	s.propose(add)
	c, update := s.members.Commit(1, nil, add), s.members.Update(2)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			_, _, err := s.group.Commit(c.Message, c.GroupInfo)
			_, _, proposeErr := s.group.Propose(update)
			if err != nil || proposeErr != nil || view(s.group) == "" {
				s.Error(err, proposeErr)
			}
		})
	}
	workers.Wait()
}

func testVerifyMember(s *suite) {
	label, content := mimiport.MigrationInitLabel, []byte("content")
	sig := s.members.Sign(2, label, content)
	if err := s.group.VerifyMember(2, label, content, sig); err != nil {
		s.Error(err)
	}
	s.refused(s.group.VerifyMember(1, label, content, sig), mimiport.KindBadSignature)
	s.refused(s.group.VerifyMember(2, label+"x", content, sig), mimiport.KindBadSignature)
	s.refused(s.group.VerifyMember(2, label, content[1:], sig), mimiport.KindBadSignature)
	s.refused(s.group.VerifyMember(2, label, content, sig[1:]), mimiport.KindBadSignature)
	s.refused(s.group.VerifyMember(2, label, content, nil), mimiport.KindBadSignature)
	s.refused(s.group.VerifyMember(1<<31, label, content, sig), mimiport.KindInvalid)
}

func testVerifyGroupInfo(s *suite) {
	first, before := s.members.Commit(1, nil), s.group
	s.members.Advance()
	later := s.members.Commit(2, nil)
	for epoch, by := range map[uint64]struct {
		leaf uint32
		info []byte
	}{before.Epoch() + 1: {1, first.GroupInfo}, before.Epoch() + 2: {2, later.GroupInfo}} {
		if got, signer, err := before.VerifyGroupInfo(by.info); err != nil || got != epoch || signer.Leaf != by.leaf {
			s.Errorf("the GroupInfo of epoch %d is of epoch %d by leaf %d: %v", epoch, got, signer.Leaf, err)
		}
	}
	_, _, err := before.VerifyGroupInfo(s.newGroup(s, []byte("other"), 5).GroupInfo())
	s.refused(err, mimiport.KindUnknownGroup)
	// other members with the same names
	_, _, err = before.VerifyGroupInfo(s.newGroup(s, []byte("group"), 5).Commit(2, nil).GroupInfo)
	s.refused(err, mimiport.KindBadSignature)
	_, _, err = before.VerifyGroupInfo(later.Message)
	s.refused(err, mimiport.KindBadMessage)
	for message := range mutations(later.GroupInfo) {
		_, _, err := before.VerifyGroupInfo(message)
		s.typed(err)
		if err == nil {
			s.Fatal("the engine verifies a changed GroupInfo")
		}
	}
}

func testWelcomes(s *suite) {
	add, other := s.members.Add(0), s.members.Add(1)
	s.propose(add)
	c := s.members.Commit(1, nil, add)
	e := s.commit(c)
	if err := s.engine.CheckWelcomes(e, [][]byte{c.Welcome}); err != nil {
		s.Error(err)
	}
	s.refused(s.engine.CheckWelcomes(e, nil), mimiport.KindInvalid)
	s.refused(s.engine.CheckWelcomes(e, [][]byte{c.Welcome, c.Welcome}), mimiport.KindInvalid)
	s.refused(s.engine.CheckWelcomes(e, [][]byte{s.members.Commit(1, nil, other).Welcome}), mimiport.KindInvalid)
	s.refused(s.engine.CheckWelcomes(e, [][]byte{c.Message}), mimiport.KindBadMessage)
	s.refused(s.engine.CheckWelcomes(e, [][]byte{nil}), mimiport.KindBadMessage)
}

// testMutations changes each byte of each message. If the engine accepts a message, its group must open again.
func testMutations(s *suite) {
	proposals := [][]byte{s.members.Update(1), s.members.Add(4), s.members.Remove(0, 2)}
	seen := view(s.group)
	for _, message := range proposals {
		for changed := range mutations(message) {
			next, _, err := s.group.Propose(changed)
			s.typed(err)
			if err == nil && len(next.Proposals()) != 1 {
				s.Fatal("an accepted proposal is not pending")
			}
		}
	}
	if view(s.group) != seen {
		s.Error("a refused proposal has changed the group")
	}
	for _, message := range proposals {
		s.propose(message)
	}
	c := s.members.Commit(0, nil, proposals...)
	for changed := range mutations(c.Message) {
		_, _, err := s.group.Commit(changed, c.GroupInfo)
		s.typed(err)
	}
	for changed := range mutations(c.GroupInfo) {
		_, _, err := s.group.Commit(c.Message, changed)
		s.typed(err)
		if err == nil {
			s.Fatal("the engine accepts a changed GroupInfo")
		}
	}
	for changed := range mutations(s.members.GroupInfo()) {
		_, err := s.engine.Open(changed, s.members.RatchetTree())
		s.typed(err)
		if err == nil {
			s.Fatal("the engine opens a changed GroupInfo")
		}
	}
	for changed := range mutations(s.members.RatchetTree()) {
		_, err := s.engine.Open(s.members.GroupInfo(), changed)
		s.typed(err)
		if err == nil {
			s.Fatal("the engine opens a changed tree")
		}
	}
}

// mutations yields copies of a message, each with one byte changed. For every tenth byte, it also yields a copy
// without it.
func mutations(message []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := range message {
			changed := slices.Clone(message)
			if changed[i] ^= 1 << (i % 8); !yield(changed) {
				return
			}
			if i%10 == 0 && !yield(slices.Delete(slices.Clone(message), i, i+1)) {
				return
			}
		}
	}
}
