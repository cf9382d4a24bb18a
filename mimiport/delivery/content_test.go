package delivery_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

func announce(to string) []byte {
	data, err := (&mimiport.MigrationCommitAAD{TargetDomain: to}).Marshal()
	if err != nil {
		panic(err)
	}
	return data
}

// TestTargetVerifies: "T derives epoch n+1 itself …: it trusts S only for 'this is the branch I accepted', never for
// what the group is. Everything is verified" (profile, section 4): T refuses every signed content that S's own checks
// would have refused, and stays OFFERED.
func TestTargetVerifies(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	data := must(p.stores[serverA].Content(t.Context(), a.id))(t)
	replace := func(base *mlstest.Group, o mlstest.CommitOptions) func(*mimiport.GroupState) {
		if o.AuthenticatedData == nil {
			o.AuthenticatedData = announce(serverB)
		}
		o.Path = !o.Edit.NoPath
		c := base.Commit(o)
		return func(s *mimiport.GroupState) {
			s.Base.GroupInfo, s.Base.RatchetTree = base.GroupInfo(), base.RatchetTree()
			s.Commit.Commit, s.Commit.GroupInfo = c.Message, c.GroupInfo
		}
	}
	byBob := mlstest.CommitOptions{Sender: 1}
	like := func(id []byte, third []byte) *mlstest.Group {
		return mlstest.New(mlstest.Options{Seed: 7, GroupID: id,
			Members: [][]byte{mlstest.Identity(alice, "ALICE"), mlstest.Identity(bob, "BOB"), third}})
	}
	logged := func(epoch uint64, message []byte) func(*mimiport.GroupState) {
		return func(s *mimiport.GroupState) {
			s.Log = append(s.Log, mimiport.LogEntry{Seq: 1, Epoch: epoch, Message: message})
		}
	}
	elsewhere := like([]byte("elsewhere"), mlstest.Identity(carol, "CAROL"))
	later := p.group.Commit(mlstest.CommitOptions{Path: true}).Next
	for name, c := range map[string]struct {
		edit func(*mimiport.GroupState)
		want mimiport.Kind
	}{
		"another group": {replace(elsewhere, byBob), mimiport.KindInvalid},
		"another epoch": {replace(later, byBob), mimiport.KindInvalid},
		"another tree": {func(s *mimiport.GroupState) { s.Base.RatchetTree = elsewhere.RatchetTree() },
			mimiport.KindInvalid},
		"by another member": {replace(p.group, mlstest.CommitOptions{Sender: 0}), mimiport.KindForbidden},
		"announces another target": {replace(p.group,
			mlstest.CommitOptions{Sender: 1, AuthenticatedData: announce("c.example")}), mimiport.KindInvalid},
		"announces nothing": {replace(p.group, mlstest.CommitOptions{Sender: 1, AuthenticatedData: []byte{}}),
			mimiport.KindInvalid},
		"a Remove by value": {replace(p.group,
			mlstest.CommitOptions{Sender: 1, Proposals: []*mlstest.Proposal{p.group.Remove(0)}}), mimiport.KindInvalid},
		"a leaf of nobody":            {replace(like(p.id, []byte("nobody")), byBob), mimiport.KindBadMessage},
		"a log of another group":      {logged(0, elsewhere.Commit(byBob).Message), mimiport.KindInvalid},
		"a log of the future":         {logged(1, later.Commit(byBob).Message), mimiport.KindInvalid},
		"a log with a wrong epoch":    {logged(7, p.group.Propose(0, p.group.Update(0))), mimiport.KindInvalid},
		"a log with application data": {logged(0, p.group.Application(nil, 10)), mimiport.KindInvalid},
		"a proposal of another group": {func(s *mimiport.GroupState) {
			s.Proposals = append(s.Proposals, elsewhere.Propose(0, elsewhere.Update(0)))
		}, mimiport.KindUnknownGroup},
		"a proposal that was tampered": {func(s *mimiport.GroupState) {
			s.Proposals = append(s.Proposals, flipped(p.group.Propose(0, p.group.Update(0))))
		}, mimiport.KindBadSignature},
	} {
		t.Run(name, func(t *testing.T) {
			expectKind(t, p.put(a, p.resign(data, c.edit)), c.want)
			p.expect(a, "frozen", "offered")
		})
	}

	t.Run("for another offer", func(t *testing.T) {
		other := p.mustRequest(serverA, serverB, bob)
		content := must(mimiport.UnmarshalMigrationContent(data))(t)
		content.Response = *must(mimiport.UnmarshalMigrationResponse(other.offer.MigrationResponse))(t)
		expectKind(t, p.put(a, p.encoded(serverA, content)), mimiport.KindInvalid)
	})
	t.Run("too large", func(t *testing.T) {
		deps := p.services[serverB].Deps
		deps.Limits.GroupStateBytes = 1000
		p.services[serverB] = delivery.New(deps)
		expectKind(t, p.put(a, data), mimiport.KindTooLarge)
	})
	t.Run("to the source", func(t *testing.T) {
		_, err := p.services[serverA].PutContent(t.Context(), serverA,
			&api.ContentUpload{ID: a.id, KeyID: "ed25519:1", Data: data})
		expectKind(t, err, mimiport.KindForbidden)
	})
	p.expect(a, "frozen", "offered")
}

// TestExpiredLeafMoves: a leaf with an expired lifetime does not stop a move.
func TestExpiredLeafMoves(t *testing.T) {
	p := newPlay(t)
	p.Room.Joined[carol] = true
	now := uint64(p.now.Unix())
	joiner := p.group.NewClient(mlstest.Identity(carol, "CAROL")).Lasting(now-1, now+1)
	p.commit(serverA, alice, mlstest.CommitOptions{Proposals: []*mlstest.Proposal{p.group.Add(joiner)}})
	p.now = p.now.Add(48 * time.Hour)
	p.move(serverA, serverB, bob)
	p.expectHosted(serverB, 1)
}

// flipped is data with one bit changed near its end.
func flipped(data []byte) []byte {
	out := bytes.Clone(data)
	out[len(out)*3/4] ^= 1
	return out
}

// TestContentRepeated: TargetMigrationComplete is "the answer to the content request, also when repeated" (profile,
// section 6), by the hash of each suite. When the migration has ended, the answer is its outcome.
func TestContentRepeated(t *testing.T) {
	for suite := uint16(1); suite <= 7; suite++ {
		t.Run(fmt.Sprint(suite), func(t *testing.T) {
			p := newPlayOf(t, suite)
			p.lost = func(_, what string) bool { return what == "vote" || what == "abort" }
			a := p.begin(serverA, serverB, bob)
			data := must(p.stores[serverA].Content(t.Context(), a.id))(t)
			p.run()
			if err := p.put(a, data); err != nil {
				t.Error(err)
			}
			unsigned := p.resign(data, func(s *mimiport.GroupState) { s.Lineage.RoomID = "!x:y" })
			unsigned[len(unsigned)-1] ^= 1
			expectKind(t, p.put(a, unsigned), mimiport.KindBadSignature)
			if kept := must(p.stores[serverB].Evidence(t.Context(), p.id))(t); len(kept) != 0 {
				t.Errorf("what S has not signed is evidence: %+v", kept)
			}
			must(p.services[serverB].DropStaged(t.Context(), a.id))(t)
			expectKind(t, p.put(a, data), mimiport.KindEnded)
		})
	}
}

// TestOfferLife: the nonce "expires in 10 minutes" (profile, section 6): neither sooner nor later, at the probe and
// when the content comes.
func TestOfferLife(t *testing.T) {
	const life = 10 * time.Minute
	p := newPlay(t)
	a := p.mustRequest(serverA, serverB, bob)
	p.now = p.now.Add(life - time.Millisecond)
	p.run()
	must(p.initiate(a))(t)
	data := must(p.stores[serverA].Content(t.Context(), a.id))(t)
	p.now = p.now.Add(time.Millisecond)
	expectKind(t, p.put(a, data), mimiport.KindOfferExpired)
	_, err := p.services[serverB].ConfirmMigration(t.Context(), caller(bob), a.id, p.confirmation(a))
	expectKind(t, err, mimiport.KindConflict) // no content has come for the offer
	p.run()
	p.expect(a, "aborted", "dropped")
	_, err = p.services[serverB].ConfirmMigration(t.Context(), caller(bob), a.id, p.confirmation(a))
	expectKind(t, err, mimiport.KindEnded) // S must not believe that T has the content
}

// TestLogIsBounded: a content carries only the end of a long log.
func TestLogIsBounded(t *testing.T) {
	sent := func(p *play) int {
		a := p.begin(serverA, serverB, bob)
		content := must(mimiport.UnmarshalMigrationContent(must(p.stores[serverA].Content(t.Context(), a.id))(t)))(t)
		return len(must(mimiport.UnmarshalGroupState(content.GroupState))(t).Log)
	}
	p := newPlay(t)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	for range 1000 {
		p.say(serverA, alice)
	}
	if n := sent(p); n != 1 {
		t.Errorf("1000 application messages take a Commit's place: %d are sent", n)
	}
	p = newPlay(t)
	for range 5 {
		p.commit(serverA, alice, mlstest.CommitOptions{AuthenticatedData: bytes.Repeat([]byte{0xff}, 300<<10)})
	}
	if n := sent(p); n != 3 {
		t.Errorf("of five Commits of 300 KiB each %d are sent", n)
	}
	p = newPlay(t)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	for range 30 {
		must(p.submit(serverA, alice, &api.SubmitRequest{Message: p.group.Application(nil, 40<<10)}))(t)
	}
	if n := sent(p); n != 1 {
		t.Errorf("application messages take a Commit's place: %d are sent", n)
	}
}

// TestContentIsForgotten: the source deletes the content when the migration has ended.
func TestContentIsForgotten(t *testing.T) {
	p := newPlay(t)
	aborted := p.begin(serverA, serverB, bob)
	must(p.services[serverA].AbortMigration(t.Context(), caller(bob), aborted.id))(t)
	p.run()
	moved := p.move(serverA, serverB, bob)
	for _, a := range []*attempt{aborted, moved} {
		if data, err := p.stores[serverA].Content(t.Context(), a.id); err == nil {
			t.Errorf("%d bytes are kept", len(data))
		}
	}
}

// TestDecideByIsBounded: "`decide_by` … grows with size …, 10 minutes at most" (profile, section 6).
func TestDecideByIsBounded(t *testing.T) {
	wait := func(base time.Duration, extensions []byte) time.Duration {
		p := &play{world: newWorld(t)}
		deps := p.services[serverA].Deps
		deps.Limits.DecideBy = base
		p.services[serverA] = delivery.New(deps)
		p.id = must(p.services[serverA].ReserveGroup(t.Context(), caller(alice),
			&api.ReserveGroupRequest{RoomID: room}))(t).GroupID
		p.group = mlstest.New(mlstest.Options{Seed: 1, GroupID: p.id, Extensions: extensions, Members: [][]byte{
			mlstest.Identity(alice, "ALICE"), mlstest.Identity(bob, "BOB"),
		}})
		p.bind(serverA)
		a := p.begin(serverA, serverB, bob)
		return must(p.stores[serverA].Migration(t.Context(), a.id))(t).DecideBy.Sub(p.now)
	}
	small, large := wait(time.Minute, nil), wait(time.Minute, grease(700<<10)) // both GroupInfos hold the extension
	if small < time.Minute || large < small+time.Second {
		t.Errorf("S waits %s for a small group, %s for one of more than a mebibyte", small, large)
	}
	if most := wait(time.Hour, nil); most != 10*time.Minute {
		t.Errorf("S waits %s at most", most)
	}
}

// grease is an encoded extension of some size that every implementation must ignore (RFC 9420, section 13.5).
func grease(size int) []byte {
	var b cryptobyte.Builder
	b.AddUint16(0x2a2a)
	wire.AddOpaque(&b, make([]byte, size))
	return b.BytesOrPanic()
}

// TestProposalsTravelAsReceived: the target takes proposals in the order of their arrival, and not in the order of the
// migration Commit's references. An Add of a device can therefore follow the Remove of its leaf.
func TestProposalsTravelAsReceived(t *testing.T) {
	p := newPlay(t)
	p.Room.Joined[dave] = true
	c := p.newClient(dave, "DAVE")
	const leaf = 2
	p.commit(serverA, alice, mlstest.CommitOptions{Path: true, Proposals: []*mlstest.Proposal{p.group.Add(c)}})
	remove := p.group.Propose(leaf, p.group.Remove(leaf))
	must(p.submit(serverA, dave, &api.SubmitRequest{Message: remove}))(t)
	add := p.group.Propose(leafOf[alice], p.group.Add(c))
	must(p.submit(serverA, alice, &api.SubmitRequest{Message: add}))(t)
	a, err := p.request(serverA, serverB, bob, func(o *mlstest.CommitOptions) { o.References = [][]byte{add, remove} })
	if err != nil {
		t.Fatal(err)
	}
	must(p.initiate(a))(t)
	p.run()
	p.expect(a, "moved", "active")
}
