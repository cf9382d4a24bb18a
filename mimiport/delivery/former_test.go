package delivery_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// log reads the log of a term from a number on.
func (p *play) log(ds, user string, term, from uint64) *api.MessagesResponse {
	p.t.Helper()
	q := api.MessagesQuery{Term: &term, From: from}
	return must(p.services[ds].Messages(p.t.Context(), caller(user), p.id, q))(p.t)
}

// requireSameLog fails unless a server has the same log of a term as the host of that term, without application
// messages.
func (p *play) requireSameLog(ds, host, user string, term uint64) {
	p.t.Helper()
	want, got := p.log(host, user, term, 1), p.log(ds, user, term, 1)
	want.Messages = slices.DeleteFunc(want.Messages, func(m api.LogMessage) bool { return m.Kind == "application" })
	if want.Next = got.Next; !reflect.DeepEqual(got, want) {
		p.t.Errorf("of term %d %s has %s, and %s has %s", term, ds, outline(got), host, outline(want))
	}
	if last := got.Messages[len(got.Messages)-1]; last.Migration == nil || last.Receipt == nil {
		p.t.Errorf("the last message of term %d has no evidence or no receipt", term)
	}
}

// outline describes a log in a few words.
func outline(log *api.MessagesResponse) string {
	text := fmt.Sprintf("[end %v, moved %v]", log.End, log.Moved != nil)
	for _, m := range log.Messages {
		text += fmt.Sprintf(" %s %d by %q in epoch %d (receipt %v, evidence %v)",
			m.Kind, m.Seq, m.Sender, m.Epoch, m.Receipt != nil, m.Migration != nil)
	}
	return text
}

// addCarol adds carol with a Commit.
func (p *play) addCarol(ds string) {
	p.t.Helper()
	p.Room.Joined[carol] = true
	joiner := p.group.NewClient(mlstest.Identity(carol, "CAROL"))
	p.commit(ds, alice, mlstest.CommitOptions{Proposals: []*mlstest.Proposal{p.group.Add(joiner)}})
}

// TestFormerTerms: T serves the handshakes of the former term with S's numbers, senders, receipts and Welcomes. The
// migration Commit is the last one (profile, section 4). Application messages stay at S. T's own term is empty.
func TestFormerTerms(t *testing.T) {
	p := newPlay(t)
	p.addCarol(serverA)
	p.say(serverA, alice)
	proposal := p.group.Propose(0, p.group.Update(0))
	must(p.submit(serverA, alice, &api.SubmitRequest{Message: proposal}))(t)
	p.commit(serverA, bob, mlstest.CommitOptions{References: [][]byte{proposal}})
	a := p.begin(serverA, serverB, bob)
	p.say(serverA, alice) // its number comes before that of the migration Commit
	p.run()
	p.expect(a, "moved", "active")
	p.group = a.commit.Next
	for _, user := range []string{carol, alice} { // the Welcome is for carol
		p.requireSameLog(serverB, serverA, user, 0)
	}
	if own := p.log(serverB, alice, 1, 0); len(own.Messages) != 0 || !own.End || own.Moved != nil {
		t.Errorf("the term that begins has %s", outline(own))
	}
	if res := p.say(serverB, alice); res.Term != 1 || res.Seq != 1 {
		t.Errorf("the first message of the term has number %d of term %d", res.Seq, res.Term)
	}
}

// TestFormerTermsTravelOn: a host passes on its logs of former terms, and serves them when the group comes back.
func TestFormerTermsTravelOn(t *testing.T) {
	const serverC = "c.example"
	p := newPlay(t)
	p.addThird(`{"target":"any_creator","creators":["a.example","b.example"]}`)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	p.say(serverA, alice)
	p.move(serverA, serverB, bob)
	p.addCarol(serverB)
	p.move(serverB, serverC, alice)
	for term, host := range []string{serverA, serverB} {
		p.requireSameLog(serverC, host, alice, uint64(term))
	}
	p.move(serverC, serverA, alice)
	p.requireSameLog(serverA, serverB, alice, 1)
	if log := p.log(serverA, alice, 0, 0); len(log.Messages) != 3 {
		t.Errorf("of its own former term %s serves %d messages", serverA, len(log.Messages))
	}
	p.now = p.now.Add(8 * 24 * time.Hour) // A forgets its own log, but not the log that came with the group
	p.run()
	for term, host := range []string{serverC, serverC, serverB} {
		if log := p.log(serverA, alice, uint64(term), 0); len(log.Messages) == 0 || log.Moved == nil {
			t.Errorf("of term %d at %s %s serves %s", term, host, serverA, outline(log))
		}
	}
	if _, err := p.stores[serverC].Former(t.Context(), storage.GroupKey{ID: p.id, Term: 2}); err == nil {
		t.Error("what came with the group is kept beyond the retention")
	}
}

// TestFormerTermsInPieces: a client reads a former term in pieces like any other term, from any number on.
func TestFormerTermsInPieces(t *testing.T) {
	p := newPlay(t)
	p.addCarol(serverA)
	p.say(serverA, alice)
	p.commit(serverA, bob, mlstest.CommitOptions{})
	p.move(serverA, serverB, bob)
	whole := p.log(serverB, carol, 0, 0)
	for from := range uint64(7) {
		var got []api.LogMessage
		q := api.MessagesQuery{Term: new(uint64), From: from, Limit: 1}
		for end := false; !end; {
			log := must(p.services[serverB].Messages(t.Context(), caller(carol), p.id, q))(t)
			if len(log.Messages) > 1 || log.End != (log.Moved != nil) {
				t.Fatalf("from %d: %s", q.From, outline(log))
			}
			got, q.From, end = append(got, log.Messages...), log.Next, log.End
		}
		want := slices.DeleteFunc(slices.Clone(whole.Messages), func(m api.LogMessage) bool { return m.Seq < from })
		if !reflect.DeepEqual(got, want) && len(got)+len(want) > 0 {
			t.Errorf("from %d: %d messages of %d, or others", from, len(got), len(want))
		}
	}
}

// TestFormerTermsOfNobody: only members of the room read former terms, and only after S has decided. No term follows
// the present one.
func TestFormerTermsOfNobody(t *testing.T) {
	p := newPlay(t)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	read := func(user string, term uint64) error {
		_, err := p.services[serverB].Messages(t.Context(), caller(user), p.id, api.MessagesQuery{Term: &term})
		return err
	}
	p.lost = func(_, what string) bool { return what == "confirmation" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "decided", "staged")
	for term := range uint64(2) {
		expectKind(t, read(alice, term), mimiport.KindInProgress)
	}
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(time.Minute)
	p.run()
	p.expect(a, "moved", "active")
	expectKind(t, read(carol, 0), mimiport.KindForbidden)
	expectKind(t, read(alice, 2), mimiport.KindUnknownGroup)
	if err := read(alice, 0); err != nil {
		t.Error(err)
	}
}

// TestFormerTermsOfShorterLineage: a server yields to another lineage that is shorter than its own. It has no log of
// the terms between.
func TestFormerTermsOfShorterLineage(t *testing.T) {
	const serverC, serverD = "c.example", "d.example"
	p := newPlay(t)
	p.addThird(`{"target":"any_creator","creators":["a.example","b.example"]}`)
	p.addServer(serverD)
	p.Room.Joined["@dave:d.example"] = true
	p.allow(serverD, `{"target":"any_creator","creators":["a.example","b.example"],"accept_claims":true}`)
	p.allow(serverB, `{"recover":true}`)
	held, was := p.held(p.lineage(serverA)), p.group
	p.move(serverA, serverC, alice)
	migrated, atC := p.lineage(serverC), p.group

	p.group = was
	p.lost = func(to, _ string) bool { return to == serverA }
	must(p.services[serverB].Recover(t.Context(), p.id, held))(t)
	p.move(serverB, serverD, bob)
	p.expectHosted(serverD, 2)
	if err := p.show(serverD, migrated); err != nil {
		t.Fatal(err)
	}
	p.expectAt(serverD, serverC, 1)
	read := func(term uint64) (*api.MessagesResponse, error) {
		return p.services[serverD].Messages(t.Context(), caller(alice), p.id, api.MessagesQuery{Term: &term})
	}
	if log, err := read(0); err != nil || log.Moved == nil || log.Moved.DeliveryService != serverC {
		t.Errorf("of term 0 %s serves %v, %v", serverD, log, err)
	}
	_, err := read(1)
	expectKind(t, err, mimiport.KindUnknownGroup)
	if log, err := read(2); err != nil || log.Moved == nil || log.Moved.DeliveryService != serverC {
		t.Errorf("of term 2 %s serves %v, %v", serverD, log, err)
	}

	// D has had the group in term 2. The group cannot come back to D in term 2 of the other lineage, but in a later
	// term.
	p.group = atC
	refused := p.begin(serverC, serverD, alice)
	p.run()
	p.expect(refused, "aborted", "dropped")
	const why = "the group has been here in a later term of another lineage"
	if m := must(p.stores[serverC].Migration(t.Context(), refused.id))(t); !strings.Contains(m.Reason, why) {
		t.Errorf("the migration is aborted: %s", m.Reason)
	}
	p.lost = func(string, string) bool { return false }
	p.move(serverC, serverA, alice)
	p.move(serverA, serverD, alice)
	p.expectHosted(serverD, 3)
}

// TestFormerTermsOfLostBranch: a server has yielded a term. It serves the log of that term from the branch that goes
// on, and not its own log.
func TestFormerTermsOfLostBranch(t *testing.T) {
	p := newPlay(t)
	p.addThird(`{"recover":true}`)
	p.allow(serverB, `{"recover":true,"accept_claims":true}`)
	p.lost = func(to, _ string) bool { return to == serverA }
	held, was := p.held(p.lineage(serverA)), p.group
	must(p.services[serverB].Recover(t.Context(), p.id, held))(t)
	p.commit(serverB, bob, mlstest.CommitOptions{})
	must(p.services[serverC].Recover(t.Context(), p.id, held))(t)
	p.support(serverC)
	if err := p.show(serverB, p.lineage(serverC)); err != nil {
		t.Fatal(err)
	}
	p.group = was
	p.commit(serverC, alice, mlstest.CommitOptions{})
	p.move(serverC, serverB, bob)
	p.requireSameLog(serverB, serverC, alice, 1)
}

// TestClaimTakesNoFormerTerms: a server that reclaims a group serves no log of the terms before.
func TestClaimTakesNoFormerTerms(t *testing.T) {
	p := newPlay(t)
	p.addThird(`{"target":"joined_servers"}`)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	p.move(serverA, serverB, bob)
	if log := p.log(serverB, alice, 0, 0); len(log.Messages) != 2 {
		t.Fatalf("of term 0 %s serves %s", serverB, outline(log))
	}
	p.move(serverB, serverC, bob)
	p.lost = func(to, _ string) bool { return to == serverC }
	must(p.services[serverB].Reclaim(t.Context(), p.id, &api.LineageRequest{}))(t)
	log := p.log(serverB, alice, 0, 0)
	if len(log.Messages) != 0 || !log.End || log.Moved == nil || log.Moved.DeliveryService != serverB || log.Term != 0 {
		t.Errorf("after the reclaim of term 0 %s serves %s", serverB, outline(log))
	}
}

// TestMigrationCommitAtStaged: a staged target refuses the migration Commit as it refuses any other Commit. When the
// target hosts the group, the Commit is of a past epoch.
func TestMigrationCommitAtStaged(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "confirmation" }
	a := p.begin(serverA, serverB, bob)
	p.run()
	p.expect(a, "decided", "staged")
	_, err := p.submit(serverB, bob, &a.init.SubmitRequest)
	expectKind(t, err, mimiport.KindInProgress)
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(time.Minute)
	p.run()
	p.expect(a, "moved", "active")
	_, err = p.submit(serverB, bob, &a.init.SubmitRequest)
	expectKind(t, err, mimiport.KindWrongEpoch)
}

// TestMigrationReceipt: when anybody has shown T the receipt of S, the migration Commit has S's number at T. Until then
// it has the number after the last message that T knows. An invalid receipt changes nothing.
func TestMigrationReceipt(t *testing.T) {
	p := newPlay(t)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	a := p.begin(serverA, serverB, bob)
	p.lost = func(_, what string) bool { return what == "confirmation" }
	for range 3 {
		p.say(serverA, alice)
	}
	p.run()
	p.expect(a, "decided", "staged")
	p.lost = func(to, _ string) bool { return to == serverB }
	told := must(p.services[serverA].Migration(t.Context(), caller(bob), a.id))(t)
	confirm := func(receipt *api.SignedInfo) *api.LogMessage {
		t.Helper()
		req := p.confirmation(a)
		req.Receipt = receipt
		must(p.services[serverB].ConfirmMigration(t.Context(), caller(bob), a.id, req))(t)
		log := p.log(serverB, alice, 0, 0)
		return &log.Messages[len(log.Messages)-1]
	}
	forged := *must(mimiport.UnmarshalCommitReceipt(told.Receipt.Message))(t)
	other := forged
	other.Seq++
	if err := mimiport.Sign(&other, p.Key(serverB)); err != nil {
		t.Fatal(err)
	}
	ofAnother := forged
	ofAnother.CommitHash[0] ^= 1
	if err := mimiport.Sign(&ofAnother, p.Key(serverA)); err != nil {
		t.Fatal(err)
	}
	for name, receipt := range map[string]*api.SignedInfo{
		"none": nil, "no receipt": {Message: []byte("receipt"), KeyID: told.Receipt.KeyID},
		"by another server": {Message: must(other.Marshal())(t), KeyID: told.Receipt.KeyID},
		"of another Commit": {Message: must(ofAnother.Marshal())(t), KeyID: told.Receipt.KeyID},
	} {
		if m := confirm(receipt); m.Seq != 2 || m.Receipt != nil || m.Migration == nil {
			t.Errorf("with the receipt %q: number %d", name, m.Seq)
		}
	}
	if m := confirm(told.Receipt); m.Seq != 5 || !bytes.Equal(m.Receipt.Message, told.Receipt.Message) {
		t.Errorf("the migration Commit has number %d", m.Seq)
	}
	if m := confirm(nil); m.Seq != 5 {
		t.Errorf("without a receipt its number becomes %d", m.Seq)
	}
	p.lost = func(string, string) bool { return false }
	p.now = p.now.Add(time.Minute)
	p.run()
	p.requireSameLog(serverB, serverA, alice, 0)
}

// misvoting is the way to a target whose first votes are for another content. left is the number of these votes.
type misvoting struct {
	delivery.Sender
	p    *play
	left int
}

func (s *misvoting) PutContent(
	ctx context.Context, from, to string, up *api.ContentUpload,
) (*api.SignedRequest, error) {
	vote, err := s.Sender.PutContent(ctx, from, to, up)
	if err != nil || s.left == 0 {
		return vote, err
	}
	s.left--
	wrong := &mimiport.TargetMigrationComplete{ContentHash: make([]byte, 32)}
	err = mimiport.Sign(wrong, s.p.Key(to))
	return &api.SignedRequest{Message: must(wrong.Marshal())(s.p.t), KeyID: vote.KeyID}, err
}

// TestWrongVote: a vote for another content does not count. S asks again, and T's vote decides.
func TestWrongVote(t *testing.T) {
	p := newPlay(t)
	p.RestartWith(serverA, func(d *delivery.Deps) { d.Sender = &misvoting{Sender: d.Sender, p: p, left: 2} })
	a := p.begin(serverA, serverB, bob)
	for range 3 {
		p.run()
		p.now = p.now.Add(10 * time.Second) // well before decide_by
	}
	p.expect(a, "moved", "active")
}

// TestBadFormerLog: T refuses a log that no honest S can have.
func TestBadFormerLog(t *testing.T) {
	receipt := func(edit func(*mimiport.CommitReceipt)) func(*mimiport.GroupState) {
		return func(s *mimiport.GroupState) {
			r := must(mimiport.UnmarshalCommitReceipt(s.Log[0].Receipt))(t)
			edit(r)
			s.Log[0].Receipt = must(r.Marshal())(t)
		}
	}
	for name, edit := range map[string]func(*mimiport.GroupState){
		"a message of a later term": func(s *mimiport.GroupState) { s.Log[1].Term = 1 },
		"a message twice": func(s *mimiport.GroupState) {
			again := s.Log[1]
			again.Seq, again.Receipt, again.ReceiptKeyID = 9, nil, ""
			s.Log = append(s.Log, again)
		},
		"the migration Commit": func(s *mimiport.GroupState) {
			s.Log = append(s.Log, mimiport.LogEntry{Seq: 9, Epoch: 2, Message: s.Commit.Commit})
		},
		"a Welcome without its Commit": func(s *mimiport.GroupState) { s.Log = s.Log[1:] },
		"no number for a Welcome": func(s *mimiport.GroupState) {
			s.Log[0].Seq, s.Log[0].Receipt, s.Log[0].ReceiptKeyID = s.Log[1].Seq-1, nil, ""
		},
		"a number that clients cannot read": func(s *mimiport.GroupState) {
			s.Log[1].Seq, s.Log[1].Receipt, s.Log[1].ReceiptKeyID = 1<<53, nil, ""
		},
		"a receipt of another group":  receipt(func(r *mimiport.CommitReceipt) { r.GroupID[0] ^= 1 }),
		"a receipt of another term":   receipt(func(r *mimiport.CommitReceipt) { r.Term++ }),
		"a receipt of another number": receipt(func(r *mimiport.CommitReceipt) { r.Seq++ }),
		"a receipt of another epoch":  receipt(func(r *mimiport.CommitReceipt) { r.Epoch++ }),
		"a receipt of another Commit": receipt(func(r *mimiport.CommitReceipt) { r.CommitHash[0] ^= 1 }),
	} {
		p := newPlay(t)
		p.addCarol(serverA)
		p.commit(serverA, alice, mlstest.CommitOptions{})
		a := p.begin(serverA, serverB, bob)
		content := p.resign(must(p.stores[serverA].Content(t.Context(), a.id))(t), edit)
		if err := p.put(a, content); mimiport.KindOf(err) != mimiport.KindInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFormerReceiptsAreForMembers: T does not verify the signature of a receipt in the log. Members do.
func TestFormerReceiptsAreForMembers(t *testing.T) {
	p := newPlay(t)
	p.commit(serverA, alice, mlstest.CommitOptions{})
	a := p.begin(serverA, serverB, bob)
	data := must(p.stores[serverA].Content(t.Context(), a.id))(t)
	unsigned := p.resign(data, func(s *mimiport.GroupState) {
		r := must(mimiport.UnmarshalCommitReceipt(s.Log[0].Receipt))(t)
		r.Signature[0] ^= 1
		s.Log[0].Receipt = must(r.Marshal())(t)
	})
	if err := p.put(a, unsigned); err != nil {
		t.Error(err)
	}
}

// TestFollowsByTargetAlone: a member was away when S was lost for good. The member follows with T alone, by the former
// term that T serves.
func TestFollowsByTargetAlone(t *testing.T) {
	w := deliverytest.New(1, map[string]storage.Store{serverA: memory.New(), serverB: memory.New()})
	_, members, err := deliverytest.NewGroup(t.Context(), w, serverA, alice, bob, carol)
	if err != nil {
		t.Fatal(err)
	}
	mover, away := members[1], members[2]
	commit := func() {
		t.Helper()
		if err := errors.Join(mover.Submit(t.Context(), mover.NewCommit()), mover.Sync(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		commit()
	}
	p := must(mover.NewMigration(t.Context(), serverB))(t)
	must(mover.Initiate(t.Context(), p))(t)
	if err := errors.Join(w.Run(t.Context()), mover.Sync(t.Context())); err != nil {
		t.Fatal(err)
	}
	commit()

	w.Lose = func(m deliverytest.Message) bool { return m.From == serverA || m.To == serverA } // for good
	if err := away.Sync(t.Context()); err == nil {
		t.Fatal("the source answers")
	}
	if err := away.SyncAt(t.Context(), serverB); err != nil {
		t.Fatal(err)
	}
	if away.DS != serverB || away.Term != 1 || away.State() != mover.State() {
		t.Errorf("the member is at %s in term %d", away.DS, away.Term)
	}
}
