package delivery

import (
	"context"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// outgoing prepares the hand-over of a group from here.
type outgoing struct{ *core }

// logBytes and logEntries bound what of the log moves along.
const (
	logEntries = 1000
	logBytes   = 1 << 20
)

// groupState is the encoded group_state (profile, section 4).
func (s outgoing) groupState(ctx context.Context, sub *submission, a *registry.Accepted) ([]byte, error) {
	g, l := sub.group, sub.live
	lineage, err := mimiport.UnmarshalLineage(g.Lineage)
	if err != nil {
		return nil, err
	}
	state := &mimiport.GroupState{
		Base:    mimiport.BaseState{Protocol: g.Protocol, GroupInfo: l.MLS.GroupInfo(), RatchetTree: l.MLS.RatchetTree()},
		Commit:  mimiport.CommitState{Commit: sub.req.Message, GroupInfo: sub.req.GroupInfo},
		Lineage: *lineage,
	}
	for _, p := range a.Effects.Proposals {
		if p.Ref != nil {
			state.Proposals = append(state.Proposals, p.Message)
		}
	}
	entries, err := s.recent(ctx, g)
	if err != nil {
		return nil, err
	}
	addLog(state, entries)
	for i := range a.Entries[1:] {
		state.Welcomes = append(state.Welcomes, joiners(&a.Entries[1+i])) // its own Welcome travels whatever the size
	}
	return state.Marshal()
}

// recent is the end of the log without application messages, as much of it as the bounds allow. It is never all in
// memory.
func (s outgoing) recent(ctx context.Context, g *storage.Group) (tail []storage.Entry, err error) {
	from, size := uint64(1), 0
	if g.NextSeq > logEntries {
		from = g.NextSeq - logEntries
	}
	for {
		page, err := s.Store.Entries(ctx, g.Key(), from, logEntries)
		if err != nil || len(page) == 0 {
			return tail, err
		}
		for _, e := range page {
			if e.Kind != storage.EntryApplication {
				e.GroupInfo = nil // it does not travel
				tail, size = append(tail, e), size+len(e.Message)
			}
		}
		for size > logBytes {
			size -= len(tail[0].Message)
			tail = tail[1:]
		}
		from = page[len(page)-1].Seq + 1
	}
}

// addLog puts log entries into the state.
func addLog(state *mimiport.GroupState, entries []storage.Entry) {
	for i := range entries {
		switch e := &entries[i]; e.Kind {
		case storage.EntryProposal, storage.EntryCommit:
			state.Log = append(state.Log, mimiport.LogEntry{Epoch: e.Epoch, Message: e.Message})
		case storage.EntryWelcome:
			state.Welcomes = append(state.Welcomes, joiners(e))
		}
	}
}

func joiners(e *storage.Entry) mimiport.Joiners {
	return mimiport.Joiners{Epoch: e.Epoch, Welcome: e.Message, Identities: e.Recipients}
}

// welcomeEntry is the log entry for a Welcome that came with a group's state.
func welcomeEntry(j *mimiport.Joiners, sender string) storage.Entry {
	return storage.Entry{
		Kind: storage.EntryWelcome, Epoch: j.Epoch, Sender: sender, Message: j.Welcome, Recipients: j.Identities,
	}
}
