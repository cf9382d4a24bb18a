package delivery

import (
	"bytes"
	"context"
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// logs reads the log for members: that of the present term and those of former terms. This file handles the terms that
// a group had at other servers: which part of their logs comes here with the group, and how members read it (profile,
// section 4).
type logs struct{ *core }

// former returns the logs of former terms that came here with a group. They may be empty.
func (s *core) former(ctx context.Context, key storage.GroupKey) (*mimiport.Former, error) {
	stored, err := s.Store.Former(ctx, key)
	if errors.Is(err, storage.ErrNotFound) {
		return new(mimiport.Former), nil
	}
	if err != nil {
		return nil, err
	}
	return mimiport.UnmarshalFormer(stored.Data)
}

// storedFormer returns the logs of former terms as a change stores them.
func storedFormer(key storage.GroupKey, log *mimiport.Former) (*storage.Former, error) {
	data, err := log.Marshal()
	return &storage.Former{GroupKey: key, Data: data}, err
}

// imported returns the logs of former terms as members read them here: the log that the source sent, then the migration
// Commit and its Welcome. The source did not know the number of this Commit yet. Until its receipt comes, the Commit
// has the number after the last message.
func (s logs) imported(m *migration.Migration, a *arrival) (*mimiport.Former, error) {
	engine, err := s.Engines.Find(a.live.MLS.Protocol())
	if err != nil {
		return nil, err
	}
	term := a.state.Lineage.Term()
	seen := map[[32]byte]bool{hash(a.state.Commit.Commit): true}
	for i := range a.state.Log {
		e := &a.state.Log[i]
		if err := requireHandshake(engine, m, e); err != nil {
			return nil, err
		}
		h := hash(e.Message)
		if seen[h] {
			return nil, badLog("it has a message twice")
		}
		if seen[h] = true; e.Term > term {
			return nil, badLog("it has a message of term %d, and the group is in term %d", e.Term, term)
		}
	}
	log := &mimiport.Former{Log: a.state.Log, Welcomes: a.state.Welcomes}
	log.Log = append(log.Log[:len(log.Log):len(log.Log)], mimiport.LogEntry{
		Term: term, Seq: 1, Epoch: m.Epoch, Sender: m.User, Message: a.state.Commit.Commit,
	})
	if last := len(log.Log) - 1; last > 0 && log.Log[last-1].Term == term {
		log.Log[last].Seq = log.After(last - 1)
	}
	if err := requireWelcomesPlaced(log); err != nil {
		return nil, err
	}
	log.KeepLast(formerMessages, formerBytes)
	return log, nil
}

// maxFormerSeq is the largest number of a message of a former term. The numbers that follow it are still exact in JSON.
const maxFormerSeq = 1 << 52

// requireHandshake fails unless a message of the source's log matches its log entry. Members verify the message and the
// receipt's signature themselves.
func requireHandshake(engine mls.Engine, m *migration.Migration, e *mimiport.LogEntry) error {
	msg, err := engine.Parse(e.Message)
	if err != nil {
		return err
	}
	switch {
	case msg.Kind != mls.KindProposal && msg.Kind != mls.KindCommit:
		return badLog("it has a message that is no handshake")
	case !bytes.Equal(msg.GroupID, m.GroupID) || msg.Epoch != e.Epoch || msg.Epoch > m.Epoch:
		return badLog("it has a message of another group or epoch")
	case e.Seq > maxFormerSeq:
		return badLog("it has a message with the number %d", e.Seq)
	case len(e.Receipt) == 0:
		return nil
	}
	receipt, err := mimiport.UnmarshalCommitReceipt(e.Receipt)
	if err != nil {
		return err
	}
	if !isReceiptOf(receipt, m.GroupID, e) {
		return badLog("it has a receipt with another message than its own")
	}
	return nil
}

// isReceiptOf reports whether the fields of a receipt match a message of a former term's log. It does not verify the
// receipt's signature.
func isReceiptOf(r *mimiport.CommitReceipt, groupID []byte, e *mimiport.LogEntry) bool {
	return bytes.Equal(r.GroupID, groupID) && r.Term == e.Term && r.Seq == e.Seq && r.Epoch == e.Epoch+1 &&
		r.CommitHash == hash(e.Message)
}

// requireWelcomesPlaced fails unless the log has the Commit of each Welcome, and no message has the number after that
// Commit's number.
func requireWelcomesPlaced(log *mimiport.Former) error {
	placed := 0
	for i := range log.Log {
		if log.WelcomeTo(i) == nil {
			continue
		}
		placed++
		if i+1 < len(log.Log) && log.Log[i+1].Term == log.Log[i].Term && log.Log[i+1].Seq < log.After(i) {
			return badLog("it has no number for a Welcome")
		}
	}
	if placed != len(log.Welcomes) {
		return badLog("it has a Welcome without its Commit")
	}
	return nil
}

func badLog(format string, args ...any) error {
	return mimiport.Errorf("take log", mimiport.KindInvalid, format, args...)
}

// takeMigrationReceipt stores the source's receipt for the migration Commit by which a group came here. The receipt
// tells the number of this Commit. takeMigrationReceipt ignores a receipt that is not valid.
func (s logs) takeMigrationReceipt(ctx context.Context, m *migration.Migration, shown *api.SignedInfo) error {
	if shown == nil {
		return nil
	}
	receipt, err := mimiport.UnmarshalCommitReceipt(shown.Message)
	if err != nil {
		return nil
	}
	if _, err := proof.Verify(ctx, s.Keys, m.Source, shown.KeyID, receipt, m.CreatedAt, proof.Known); err != nil {
		return nil
	}
	return s.groups.With(ctx, m.GroupID, func(h *registry.Held) error {
		g, err := h.GroupAt(ctx, m.Term)
		if err != nil {
			return err
		}
		log, err := s.former(ctx, g.Key())
		if err != nil || len(log.Log) == 0 {
			return err
		}
		last := &log.Log[len(log.Log)-1]
		if len(last.Receipt) > 0 || receipt.Seq < last.Seq || receipt.Seq > maxFormerSeq {
			return nil
		}
		last.Seq = receipt.Seq
		if !isReceiptOf(receipt, m.GroupID, last) {
			return nil
		}
		last.Receipt, last.ReceiptKeyID = shown.Message, shown.KeyID
		former, err := storedFormer(g.Key(), log)
		if err != nil {
			return err
		}
		// The group's row makes this fail if the group was purged meanwhile.
		return s.apply(ctx, &storage.Change{Group: g, Former: former})
	})
}

// formerPiece returns a piece of the log of a term that the group had before it came here.
func (s logs) formerPiece(ctx context.Context, g *storage.Group, q api.MessagesQuery) (*piece, error) {
	lineage, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return nil, err
	}
	if *q.Term >= lineage.Term() { // this server took a lineage that is shorter than its own before
		return nil, notInTerm(g.ID, *q.Term)
	}
	log, err := s.former(ctx, g.Key())
	if err != nil {
		return nil, err
	}
	engine, err := s.Engines.Find(g.Protocol)
	if err != nil {
		return nil, err
	}
	step := &lineage.Steps[*q.Term]
	p := &piece{term: *q.Term, next: 1}
	if p.moved, err = stepRedirect(step, *q.Term+1); err != nil {
		return nil, err
	}
	for i := range log.Log {
		old := &log.Log[i]
		if old.Term != *q.Term {
			continue
		}
		p.next = log.After(i)
		if old.Seq >= q.From && len(p.messages) < q.Limit {
			m, err := formerMessage(engine, old)
			if err != nil {
				return nil, err
			}
			if movesBy(step, m) {
				m.Migration = api.RedirectInfo(p.moved)
			}
			p.messages = append(p.messages, pieceMessage{LogMessage: *m})
		}
		if w := log.WelcomeTo(i); w != nil {
			if old.Seq+1 >= q.From && len(p.messages) < q.Limit {
				p.messages = append(p.messages, welcomeOf(old, w))
			}
		}
	}
	return p, nil
}

// formerMessage returns a handshake message of a former term in the form that members read.
func formerMessage(engine mls.Engine, e *mimiport.LogEntry) (*api.LogMessage, error) {
	msg, err := engine.Parse(e.Message)
	if err != nil {
		return nil, err
	}
	m := &api.LogMessage{
		Seq: e.Seq, Epoch: e.Epoch, Kind: string(storage.EntryProposal), Sender: e.Sender, Message: e.Message,
	}
	if msg.Kind == mls.KindCommit {
		m.Kind = string(storage.EntryCommit)
	}
	if len(e.Receipt) > 0 {
		m.Receipt = &api.SignedInfo{Message: e.Receipt, KeyID: e.ReceiptKeyID}
	}
	return m, nil
}

// welcomeOf returns the Welcome that came with a Commit of a former term.
func welcomeOf(commit *mimiport.LogEntry, w *mimiport.Joiners) pieceMessage {
	return pieceMessage{
		LogMessage: api.LogMessage{
			Seq: commit.Seq + 1, Epoch: w.Epoch, Kind: string(storage.EntryWelcome), Sender: commit.Sender, Message: w.Welcome,
		},
		recipients: w.Identities,
	}
}

// movesBy reports whether a message is the migration Commit of a step.
func movesBy(step *mimiport.LineageStep, m *api.LogMessage) bool {
	if step.Kind != mimiport.StepMigration || m.Kind != string(storage.EntryCommit) {
		return false
	}
	offer, err := mimiport.UnmarshalMigrationResponse(step.Response.Message)
	return err == nil && offer.Request.Epoch == m.Epoch
}
