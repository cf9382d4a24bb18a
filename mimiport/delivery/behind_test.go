package delivery_test

import (
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/fsck"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// submitLater lets a member submit a Commit of the members' epoch. The server must not accept it.
func (p *play) submitLater(user string) error {
	p.t.Helper()
	c := p.group.Commit(mlstest.CommitOptions{Sender: leafOf[user], Path: true})
	_, err := p.submit(serverA, user, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo})
	return err
}

// newBehind returns a group whose server was restored from a backup without the last Commits, and the receipt for the
// last Commit.
func newBehind(t *testing.T) (p *play, before *mlstest.Group, receipt *api.LineageRequest) {
	p = newPlay(t)
	backup, before := p.copyOf(serverA), p.group
	for range 3 {
		receipt = &api.LineageRequest{Receipt: p.commit(serverA, alice, mlstest.CommitOptions{}).Receipt}
	}
	p.restore(serverA, backup)
	return p, before, receipt
}

// TestForgottenReceipt: one receipt that a server has forgotten stops it. Any user of the room may show the receipt,
// because only the server can have signed it.
func TestForgottenReceipt(t *testing.T) {
	p, _, receipt := newBehind(t)
	stale := p.group
	if err := p.show(serverA, receipt); err != nil {
		t.Fatal(err)
	}
	p.expectKept(serverA, migration.EvidenceOwnForgotten)
	p.restart(serverA)
	for _, user := range []string{alice, bob} {
		_, err := p.submit(serverA, user, &api.SubmitRequest{Message: stale.Application(nil, 10)})
		expectKind(t, err, mimiport.KindStopped)
		expectKind(t, p.submitLater(user), mimiport.KindStopped)
	}
	_, err := p.initiate(p.mustRequest(serverA, serverB, bob))
	expectKind(t, err, mimiport.KindStopped)
	if _, err := p.services[serverA].Messages(t.Context(), caller(bob), p.id, api.MessagesQuery{}); err != nil {
		t.Errorf("what was accepted cannot be read: %v", err)
	}
	if host, err := p.services[serverA].Host(t.Context(), caller(bob), p.id); err != nil ||
		host.DeliveryService != serverA || host.Term != 0 {
		t.Errorf("the group is at %+v, %v", host, err)
	}
	if err := p.show(serverA, receipt); err != nil { // the second time
		t.Error(err)
	}
}

// TestLaterEpochsAlarm: handshakes of a later epoch stop no group, however many members send them, because members can
// make them up. They raise an alarm, and the server keeps one of them.
func TestLaterEpochsAlarm(t *testing.T) {
	p, before, _ := newBehind(t)
	p.Room.Power[alice], p.Room.Power[bob] = 0, 0
	behind := func(edit func(user string, req *api.SubmitRequest) string) {
		t.Helper()
		for _, user := range []string{alice, bob} {
			c := p.group.Commit(mlstest.CommitOptions{Sender: leafOf[user], Path: true})
			req := &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}
			_, err := p.submit(serverA, edit(user, req), req)
			expectKind(t, err, mimiport.KindWrongEpoch)
		}
	}
	behind(func(user string, req *api.SubmitRequest) string { req.GroupInfo = nil; return user })
	behind(func(user string, req *api.SubmitRequest) string {
		req.GroupInfo = append([]byte(nil), req.GroupInfo...)
		req.GroupInfo[len(req.GroupInfo)-1] ^= 1
		return user
	})
	behind(func(user string, req *api.SubmitRequest) string {
		req.GroupInfo = p.group.GroupInfo()
		return user
	}) // of an epoch that the Commit does not lead to
	behind(func(user string, _ *api.SubmitRequest) string { // signed by the other member
		return map[string]string{alice: bob, bob: alice}[user]
	})
	if kinds := p.evidenceKinds(serverA); len(kinds) != 0 {
		t.Errorf("the evidence is %v", kinds)
	}
	for range 3 {
		behind(func(user string, _ *api.SubmitRequest) string { return user })
		p.expectKept(serverA, storage.EvidenceLaterEpoch)
	}
	p.group = before
	p.commit(serverA, bob, mlstest.CommitOptions{})
	p.expectHosted(serverA, 0)
}

// editReceipt returns the receipt after an edit, signed with a server's key.
func (p *play) editReceipt(
	shown *api.LineageRequest, signer string, edit func(*mimiport.CommitReceipt),
) *api.LineageRequest {
	p.t.Helper()
	r, err := mimiport.UnmarshalCommitReceipt(shown.Receipt.Message)
	if err != nil {
		p.t.Fatal(err)
	}
	edit(r)
	return &api.LineageRequest{Receipt: &api.SignedInfo{Message: p.encoded(signer, r), KeyID: p.KeyID(signer)}}
}

// TestReceiptsThatCountForNothing: a receipt counts only if this server has signed it for this group in its present
// term, and if it contradicts the receipt on record. The server compares the fields: another signature on the same
// fields changes nothing.
func TestReceiptsThatCountForNothing(t *testing.T) {
	p, before, receipt := newBehind(t)
	same := func(*mimiport.CommitReceipt) {}
	by := func(keyID string, message []byte) *api.LineageRequest {
		return &api.LineageRequest{Receipt: &api.SignedInfo{Message: message, KeyID: keyID}}
	}
	elsewhere := p.editReceipt(receipt, serverA, func(r *mimiport.CommitReceipt) { r.GroupID = []byte("another") })
	for name, c := range map[string]struct {
		shown *api.LineageRequest
		kind  mimiport.Kind // of the refusal, 0 for none
	}{
		"another server's": {p.editReceipt(receipt, serverB, same), mimiport.KindBadSignature},
		"an unknown key":   {by("ed25519:7", receipt.Receipt.Message), mimiport.KindBadSignature},
		"of another group": {elsewhere, mimiport.KindInvalid},
		"of a later term":  {p.editReceipt(receipt, serverA, func(r *mimiport.CommitReceipt) { r.Term = 1 }), 0},
		"no receipt":       {by("ed25519:1", []byte("none")), mimiport.KindBadMessage},
		"nothing at all":   {&api.LineageRequest{}, mimiport.KindBadMessage},
	} {
		if err := p.show(serverA, c.shown); c.kind == 0 && err != nil || c.kind != 0 && mimiport.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := p.services[serverA].ShowLineage(t.Context(), caller("@eve:a.example"), p.id, receipt)
	expectKind(t, err, mimiport.KindForbidden)

	p.group = before
	own := &api.LineageRequest{Receipt: p.commit(serverA, bob, mlstest.CommitOptions{}).Receipt}
	p.Rotate(serverA)
	for _, shown := range []*api.LineageRequest{own, p.editReceipt(own, serverA, same)} {
		if err := p.show(serverA, shown); err != nil {
			t.Error(err)
		}
	}
	if kinds := p.evidenceKinds(serverA); len(kinds) != 0 {
		t.Errorf("the evidence is %v", kinds)
	}
	p.expectHosted(serverA, 0)

	p.move(serverA, serverB, bob)
	p.move(serverB, serverA, alice)
	if err := p.show(serverA, receipt); err != nil { // of a former term
		t.Error(err)
	}
	p.expectHosted(serverA, 2)
}

// TestReceiptOfPastKey: a receipt counts even if the server has rotated its key away.
func TestReceiptOfPastKey(t *testing.T) {
	p, _, receipt := newBehind(t)
	p.Rotate(serverA)
	if err := p.show(serverA, receipt); err != nil {
		t.Fatal(err)
	}
	p.expectKept(serverA, migration.EvidenceOwnForgotten)
}

// TestFork: two receipts for one epoch prove that the server has accepted two Commits. The server keeps both as
// evidence.
func TestFork(t *testing.T) {
	p, before, _ := newBehind(t)
	backup := p.copyOf(serverA)
	first := &api.LineageRequest{Receipt: p.commitOn(before, alice)}
	p.commitOn(p.group, alice)
	p.restore(serverA, backup)
	second := p.commitOn(before, bob)
	known := p.known(first)
	_, err := p.submit(serverA, bob, &api.SubmitRequest{Message: p.group.Application(nil, 10), Known: known})
	expectKind(t, err, mimiport.KindWrongEpoch)
	if err := p.show(serverA, first); err != nil {
		t.Fatal(err)
	}
	_, err = p.submit(serverA, bob, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
	expectKind(t, err, mimiport.KindStopped)
	kept, err := p.stores[serverA].Evidence(t.Context(), p.id)
	if err != nil || len(kept) != 2 {
		t.Fatalf("the evidence is %v (%v)", kept, err)
	}
	if kept[0].Kind != storage.EvidenceFork || string(kept[0].Data) != string(second.Message) {
		t.Errorf("the receipt on record is kept as %v", kept[0])
	}
	if kept[1].Kind != migration.EvidenceOwnForgotten || string(kept[1].Data) != string(first.Receipt.Message) {
		t.Errorf("the receipt that was shown is kept as %v", kept[1])
	}
	a, b := p.verifiedReceipt(kept[0]), p.verifiedReceipt(kept[1])
	if a.Epoch != b.Epoch || a.Term != b.Term || a.CommitHash == b.CommitHash {
		t.Errorf("the receipts %v and %v prove nothing", a, b)
	}
}

// commitOn lets a member commit on a state and returns the receipt. The play goes on with the new state.
func (p *play) commitOn(state *mlstest.Group, user string) *api.SignedInfo {
	p.t.Helper()
	p.group = state
	return p.commit(serverA, user, mlstest.CommitOptions{}).Receipt
}

// verifiedReceipt returns the receipt in a piece of evidence, after a check of A's signature.
func (p *play) verifiedReceipt(e storage.Evidence) *mimiport.CommitReceipt {
	p.t.Helper()
	r, err := mimiport.UnmarshalCommitReceipt(e.Data)
	if err == nil {
		err = p.services[serverA].Keys.VerifyOwn(serverA, e.KeyID, r)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

// known is a client's claim that it knows the Commit of a receipt.
func (p *play) known(shown *api.LineageRequest) *api.KnownCommit {
	p.t.Helper()
	r, err := mimiport.UnmarshalCommitReceipt(shown.Receipt.Message)
	if err != nil {
		p.t.Fatal(err)
	}
	return &api.KnownCommit{Epoch: r.Epoch, CommitHash: r.CommitHash[:]}
}

// TestFrozenReceipt: a server had decided a migration, and was then restored from a backup in which the group is
// frozen. If a user shows it the receipt of the migration Commit, it decides the same again. If a user shows it the
// receipt of another Commit, it gives the migration up and stops.
func TestFrozenReceipt(t *testing.T) {
	restored := func(t *testing.T) (*play, *attempt, storage.Store) {
		p := newPlay(t)
		a := p.begin(serverA, serverB, bob)
		return p, a, p.copyOf(serverA, a.id)
	}
	t.Run("decided", func(t *testing.T) {
		p, a, backup := restored(t)
		p.run()
		p.group = a.commit.Next
		log, err := p.services[serverA].Messages(t.Context(), caller(bob), p.id, api.MessagesQuery{})
		if err != nil {
			t.Fatal(err)
		}
		p.restore(serverA, backup)
		if err := p.show(serverA, &api.LineageRequest{Receipt: log.Messages[len(log.Messages)-1].Receipt}); err != nil {
			t.Fatal(err)
		}
		if g, err := backup.Group(t.Context(), p.id); err != nil || g.State != migration.GroupFrozen {
			t.Errorf("the group is %v, %v", g, err)
		}
	})
	t.Run("another Commit", func(t *testing.T) {
		p, a, backup := restored(t)
		if _, err := p.services[serverA].AbortMigration(t.Context(), caller(bob), a.id); err != nil {
			t.Fatal(err)
		}
		receipt := p.commit(serverA, alice, mlstest.CommitOptions{}).Receipt
		p.restore(serverA, backup)
		if err := p.show(serverA, &api.LineageRequest{Receipt: receipt}); err != nil {
			t.Fatal(err)
		}
		g, err := backup.Group(t.Context(), p.id)
		m, mErr := backup.Migration(t.Context(), a.id)
		if err != nil || mErr != nil || g.State != migration.GroupStopped || m.State != migration.Aborted {
			t.Errorf("the group is %v, the migration %v (%v, %v)", g, m, err, mErr)
		}
	})
}

// TestStoppedGoesOn: an operator goes on with a stopped group from the state that a member holds, without loss, or from
// the state in the backup.
func TestStoppedGoesOn(t *testing.T) {
	stop := func(t *testing.T) (*play, *mlstest.Group, *api.LineageRequest) {
		p, before, receipt := newBehind(t)
		if err := p.show(serverA, receipt); err != nil {
			t.Fatal(err)
		}
		return p, before, receipt
	}
	t.Run("recover", func(t *testing.T) {
		p, _, _ := stop(t)
		p.allow(serverA, `{"recover":true}`)
		host, err := p.services[serverA].Recover(t.Context(), p.id, p.held(p.lineage(serverA)))
		if err != nil || host.Term != 1 {
			t.Fatalf("the recover gives %+v, %v", host, err)
		}
		p.goesOn()
	})
	t.Run("reclaim", func(t *testing.T) {
		p, before, receipt := stop(t)
		host, err := p.services[serverA].Reclaim(t.Context(), p.id, &api.LineageRequest{})
		if err != nil || host.Term != 1 {
			t.Fatalf("the reclaim gives %+v, %v", host, err)
		}
		for _, user := range []string{alice, bob} { // their void epoch cannot stop the group again
			expectKind(t, p.submitLater(user), mimiport.KindWrongEpoch)
			if err := p.show(serverA, receipt); err != nil {
				t.Error(err)
			}
		}
		if kinds := p.evidenceKinds(serverA); slices.Contains(kinds, storage.EvidenceLaterEpoch) {
			t.Errorf("the void epoch alarms: %v", kinds)
		}
		p.group = before
		p.goesOn()
	})
}

// goesOn checks that the group is in use at A in term 1, and can move to a server that accepts claims.
func (p *play) goesOn() {
	p.t.Helper()
	p.expectHosted(serverA, 1)
	p.commit(serverA, bob, mlstest.CommitOptions{})
	p.expectSound(serverA)
	p.allow(serverB, `{"accept_claims":true}`)
	p.move(serverA, serverB, bob)
	p.expectHosted(serverB, 2)
	p.expectSound(serverA)
	p.expectSound(serverB)
}

// expectSound checks that fsck finds nothing wrong in a server's store.
func (p *play) expectSound(ds string) {
	p.t.Helper()
	report, err := fsck.Check(p.t.Context(), p.stores[ds].(*memory.Store), p.services[ds].Engines)
	if err != nil || len(report.Problems) > 0 {
		p.t.Errorf("%s: %v %v", ds, report, err)
	}
}

// TestStoppedLearns: the server of a stopped group learns of a later term as any other server does. A user may show it
// the receipt and the lineage at once.
func TestStoppedLearns(t *testing.T) {
	p := newPlay(t)
	backup := p.copyOf(serverA)
	receipt := p.commit(serverA, alice, mlstest.CommitOptions{}).Receipt
	p.move(serverA, serverB, bob)
	p.restore(serverA, backup)
	shown := p.lineage(serverB)
	shown.Receipt = receipt
	if err := p.show(serverA, shown); err != nil {
		t.Fatal(err)
	}
	p.expectMoved(serverA, serverB)
	if kinds := p.evidenceKinds(serverA); len(kinds) != 2 {
		t.Errorf("the evidence is %v", kinds)
	}
}
