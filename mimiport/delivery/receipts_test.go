package delivery_test

import (
	"crypto/sha256"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// TestKnown: before it accepts a message the host compares the Commit that the client knows with its own. It also
// serves a client that names no Commit.
func TestKnown(t *testing.T) {
	p := newPlay(t)
	first := p.known(&api.LineageRequest{Receipt: p.commit(serverA, alice, mlstest.CommitOptions{}).Receipt})
	latest := p.known(&api.LineageRequest{Receipt: p.commit(serverA, bob, mlstest.CommitOptions{}).Receipt})
	for _, bad := range []*api.KnownCommit{
		{Epoch: latest.Epoch + 1, CommitHash: latest.CommitHash},
		{Epoch: 1<<64 - 1, CommitHash: latest.CommitHash},
		{Epoch: latest.Epoch, CommitHash: first.CommitHash},
		{Epoch: 0, CommitHash: first.CommitHash},
		{Epoch: latest.Epoch},
	} {
		c := p.group.Commit(mlstest.CommitOptions{Sender: 0, Path: true})
		for _, req := range []*api.SubmitRequest{
			{Message: c.Message, GroupInfo: c.GroupInfo, Known: bad},
			{Message: p.group.Application(nil, 10), Known: bad},
		} {
			_, err := p.submit(serverA, alice, req)
			expectKind(t, err, mimiport.KindWrongEpoch)
			if at := asError(err).Info.Epoch; at == nil || *at != p.group.Epoch() {
				t.Errorf("the refusal names epoch %v", at)
			}
		}
		a := p.mustRequest(serverA, serverB, bob)
		a.init.Known = bad
		_, err := p.initiate(a)
		expectKind(t, err, mimiport.KindWrongEpoch)
	}
	p.expectHosted(serverA, 0)
	for _, good := range []*api.KnownCommit{nil, first, latest} {
		req := &api.SubmitRequest{Message: p.group.Application(nil, 10), Known: good}
		if _, err := p.submit(serverA, alice, req); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	a := p.mustRequest(serverA, serverB, bob)
	a.init.Known = latest
	if _, err := p.initiate(a); err != nil {
		t.Error(err)
	}
}

// TestReceipts: the receipt of a Commit is in the answer, in the log and in the fan-out. No other message has a
// receipt. The host signs the receipt of a migration Commit with its decision, and not before.
func TestReceipts(t *testing.T) {
	p := newPlay(t)
	c := p.group.Commit(mlstest.CommitOptions{Sender: 0, Path: true})
	req := &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}
	res, err := p.submit(serverA, alice, req)
	if err != nil {
		t.Fatal(err)
	}
	p.group = c.Next
	answered := api.LogMessage{Seq: res.Seq, Kind: "commit", Receipt: res.Receipt} // the Commit of epoch 0
	if said := p.say(serverA, bob); said.Receipt != nil {
		t.Error("a receipt for an application message")
	}
	p.run()
	aborted := p.begin(serverA, serverB, bob)
	first := storage.Epoch{GroupKey: storage.GroupKey{ID: p.id}}
	if receipts, err := p.stores[serverA].Receipts(t.Context(), first, 10); err != nil || len(receipts) != 1 {
		t.Errorf("while the group is frozen there are %d receipts (%v)", len(receipts), err)
	}
	if _, err := p.services[serverA].AbortMigration(t.Context(), caller(bob), aborted.id); err != nil {
		t.Fatal(err)
	}
	p.run()
	p.Got = nil
	moved := p.move(serverA, serverB, bob)
	log, err := p.services[serverA].Messages(t.Context(), caller(bob), p.id, api.MessagesQuery{})
	if err != nil {
		t.Fatal(err)
	}
	commits := map[uint64][]byte{1: c.Message, 2: moved.commit.Message}
	for _, m := range append(log.Messages, answered) {
		p.expectReceipt(&m, commits)
	}
	for _, d := range p.Got {
		p.expectReceipt(&d.LogMessage, commits)
	}
	if len(p.Got) == 0 || log.Messages[len(log.Messages)-1].Receipt == nil {
		t.Error("nothing to compare")
	}
}

// expectReceipt checks that a Commit of A's first term has its receipt, and that any other message has none. commits
// maps an epoch to the Commit that leads to it.
func (p *play) expectReceipt(m *api.LogMessage, commits map[uint64][]byte) {
	p.t.Helper()
	if m.Kind != string(storage.EntryCommit) {
		if m.Receipt != nil {
			p.t.Errorf("message %d has a receipt", m.Seq)
		}
		return
	}
	r, err := mimiport.UnmarshalCommitReceipt(m.Receipt.Message)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.Verify(serverA, m.Receipt.KeyID, r); err != nil {
		p.t.Error(err)
	}
	want := mimiport.CommitReceipt{
		GroupID: p.id, Epoch: m.Epoch + 1, Seq: m.Seq, CommitHash: sha256.Sum256(commits[m.Epoch+1]),
		Signature: r.Signature,
	}
	if diff := cmp.Diff(&want, r); diff != "" {
		p.t.Errorf("the receipt of message %d (-want +got):\n%s", m.Seq, diff)
	}
}
