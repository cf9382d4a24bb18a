package delivery

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// outgoing prepares the hand-over of a group from here.
type outgoing struct{ *core }

// formerMessages and formerBytes bound the part of the log that moves with the group (profile, section 4).
const (
	formerMessages = 1000
	formerBytes    = 1 << 20
)

// groupState returns the encoded group_state (profile, section 4).
func (s outgoing) groupState(ctx context.Context, sub *submission, a *registry.Accepted) ([]byte, error) {
	g, l := sub.group, sub.live
	lineage, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return nil, err
	}
	now := l.Snapshot(g) // the snapshot holds the tree once
	state := &mimiport.GroupState{
		Base:    mimiport.BaseState{Protocol: g.Protocol, GroupInfo: now.GroupInfo, RatchetTree: now.RatchetTree},
		Commit:  mimiport.CommitState{Commit: sub.req.Message, GroupInfo: sub.req.GroupInfo},
		Lineage: *lineage,
	}
	referenced := make(map[string]bool)
	for _, p := range a.Effects.Proposals {
		referenced[string(p.Ref)] = true // a proposal by value has an empty reference
	}
	for _, p := range l.MLS.Proposals() {
		if referenced[string(p.Ref)] {
			state.Proposals = append(state.Proposals, p.Message)
		}
	}
	log, err := s.logToNow(ctx, g)
	if err != nil {
		return nil, err
	}
	state.Log, state.Welcomes = log.Log, log.Welcomes
	for i := range a.Entries[1:] {
		// The Welcome of the migration Commit travels whatever its size.
		state.Welcomes = append(state.Welcomes, joiners(&a.Entries[1+i]))
	}
	return state.Marshal()
}

// logToNow returns the end of the log without application messages, as far back as the bounds allow. It covers the
// present term, and the former terms that came here with the group.
func (s *core) logToNow(ctx context.Context, g *storage.Group) (*mimiport.Former, error) {
	log, err := s.former(ctx, g.Key())
	if err != nil {
		return nil, err
	}
	entries, err := s.Store.Latest(ctx, g.Key(), formerMessages)
	if err != nil {
		return nil, err
	}
	receipts, err := s.receipts(ctx, entries)
	if err != nil {
		return nil, err
	}
	for i := range entries {
		e := &entries[i]
		if e.Kind == storage.EntryWelcome {
			log.Welcomes = append(log.Welcomes, joiners(e))
			continue
		}
		old := mimiport.LogEntry{Term: e.Term, Seq: e.Seq, Epoch: e.Epoch, Sender: e.Sender, Message: e.Message}
		if r := receipts[e.Seq]; r != nil {
			old.Receipt, old.ReceiptKeyID = r.Message, r.KeyID
		}
		log.Log = append(log.Log, old)
	}
	log.KeepLast(formerMessages, formerBytes)
	return log, nil
}

func joiners(e *storage.Entry) mimiport.Joiners {
	return mimiport.Joiners{Epoch: e.Epoch, Welcome: e.Message, Identities: e.Recipients}
}

// welcomeEntry returns the log entry for a Welcome that came with a group's state.
func welcomeEntry(j *mimiport.Joiners, sender string) storage.Entry {
	return storage.Entry{
		Kind: storage.EntryWelcome, Epoch: j.Epoch, Sender: sender, Message: j.Welcome, Recipients: j.Identities,
	}
}
