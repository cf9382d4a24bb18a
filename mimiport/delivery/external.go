package delivery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// ownSender is this server as an external sender of groups of one cipher suite: it has one key for each protocol and signature
// scheme, apart from the federation key (profile, section 4).
type ownSender struct {
	mls     mls.ExternalSenders
	private []byte
	entry   mls.ExternalSender
	encoded []byte
}

// sender is this server, by the name server, as an external sender; nil where the protocol has none. The key is drawn when it is first
// needed.
func (s *Service) sender(ctx context.Context, server, protocol string, cipherSuite uint16) (*ownSender, error) {
	engine, err := s.engine(protocol)
	if err != nil {
		return nil, err
	}
	external, ok := engine.(mls.ExternalSenders)
	if !ok {
		return nil, nil
	}
	scheme, err := external.Scheme(cipherSuite)
	if err != nil {
		return nil, err
	}
	o := &ownSender{mls: external}
	if o.private, err = s.senderKey(ctx, external, cipherSuite, fmt.Sprintf("external-sender/%s/%s", protocol, scheme)); err != nil {
		return nil, err
	}
	o.entry, o.encoded, err = external.Entry(cipherSuite, o.private, []byte(server))
	return o, err
}

func (s *Service) senderKey(ctx context.Context, external mls.ExternalSenders, cipherSuite uint16, setting string) (private []byte, err error) {
	stored, err := s.Store.Setting(ctx, setting)
	if errors.Is(err, storage.ErrNotFound) {
		stored, err = s.drawKey(ctx, external, cipherSuite, setting)
	}
	if err != nil {
		return nil, err
	}
	err = json.Unmarshal(stored, &private)
	return private, err
}

// drawKey stores a new key and returns what is stored: another one, if that came first.
func (s *Service) drawKey(ctx context.Context, external mls.ExternalSenders, cipherSuite uint16, setting string) (json.RawMessage, error) {
	drawn, err := external.GenerateKey(cipherSuite, s.Rand)
	if err != nil {
		return nil, err
	}
	value, err := json.Marshal(drawn)
	if err != nil {
		return nil, err
	}
	return s.Store.AddSetting(context.WithoutCancel(ctx), setting, value)
}

// senderEntry is the encoded entry to hand out, nil where none is asked for.
func (s *Service) senderEntry(ctx context.Context, server string, req api.SuiteRequest) ([]byte, error) {
	if req.CipherSuite == 0 {
		return nil, nil
	}
	o, err := s.sender(ctx, server, req.Protocol, req.CipherSuite)
	if o == nil || err != nil {
		return nil, err
	}
	return o.encoded, nil
}

// ownEntries lists the indexes of the external_senders entries that name a server.
func ownEntries(server string, g mls.Group) (indexes []uint32) {
	for i, e := range g.ExternalSenders() {
		if string(e.Identity) == server {
			indexes = append(indexes, uint32(i))
		}
	}
	return indexes
}

// checkOwnEntries fails for a group in which an entry of external_senders names this server and has another key than its own.
func (s *Service) checkOwnEntries(ctx context.Context, server string, g mls.Group) error {
	indexes := ownEntries(server, g)
	if len(indexes) == 0 {
		return nil
	}
	o, err := s.sender(ctx, server, g.Protocol(), g.CipherSuite())
	if err != nil {
		return err
	}
	for _, i := range indexes {
		if o == nil || !bytes.Equal(g.ExternalSenders()[i].SignatureKey, o.entry.SignatureKey) {
			return broken(ruleOwnEntry, "external_senders names %s with a key that it has not given out", server)
		}
	}
	return nil
}

// keepsOwnEntries fails for a Commit that drops or forges the entries of the server itself.
func (s *Service) keepsOwnEntries(ctx context.Context, server string, before, after mls.Group) error {
	if len(ownEntries(server, after)) < len(ownEntries(server, before)) {
		return broken(ruleOwnEntry, "the Commit drops the external_senders entry of %s", server)
	}
	return s.checkOwnEntries(ctx, server, after)
}

// pendingRemoves lists the leaves that the server has proposed to remove in this epoch.
func pendingRemoves(server string, g mls.Group) (leaves []uint32) {
	own := ownEntries(server, g)
	for _, p := range g.Proposals() {
		if p.Sender.Type == mls.SenderExternal && p.Type == mls.ProposalRemove && slices.Contains(own, p.Sender.Index) {
			leaves = append(leaves, p.Remove.Leaf)
		}
	}
	return leaves
}

// removesThem fails for a member's Commit that leaves a leaf in the group which the server has proposed to remove, unless it is the
// sender's own (profile, section 7).
func removesThem(server string, before mls.Group, effects *mls.Effects) error {
	if effects.Sender.Type != mls.SenderMember {
		return nil
	}
	for _, leaf := range pendingRemoves(server, before) {
		removed := slices.ContainsFunc(effects.Removed, func(m mls.Member) bool { return m.Leaf == leaf })
		if !removed && leaf != effects.Sender.Index {
			return broken(rulePendingRemove, "leaf %d, whose user has left the room, must be removed", leaf)
		}
	}
	return nil
}

// offeredEntry is the target's external_senders entry in an Init, verified; nil where there is none.
func (s *Service) offeredEntry(ctx context.Context, id mimiport.MigrationID, target string, req *api.MigrationInitRequest) ([]byte, error) {
	if len(req.ExternalSenderOffer) == 0 {
		return nil, nil
	}
	offer, err := mimiport.UnmarshalExternalSenderOffer(req.ExternalSenderOffer)
	if err != nil {
		return nil, err
	}
	if offer.MigrationID != id {
		return nil, mimiport.Errorf("init", mimiport.KindInvalid, "the external sender is offered for another migration")
	}
	return offer.ExternalSender, s.Keys.Verify(ctx, target, req.KeyID, offer)
}

// swapped fails unless the Commit gives the group's external_senders to the target, as profile, section 5 has it, by one
// GroupContextExtensions by value; where no entry names the source, none.
func (s *Service) swapped(m *migration.Migration, before mls.Group, st *step, entry []byte) error {
	byValue := 0
	for _, p := range st.effects.Proposals {
		switch {
		case p.Ref == nil && p.Type == mls.ProposalGroupContextExtensions:
			byValue++
		case p.Ref == nil:
			return broken(ruleMigrationCommit, "the Commit has a proposal by value")
		case p.Type == mls.ProposalReInit, p.Type == mls.ProposalGroupContextExtensions:
			return broken(ruleMigrationCommit, "the Commit references a proposal of type %d", p.Type)
		}
	}
	want, swaps := st.effects.ExtensionsBefore, 0
	if len(ownEntries(m.Source, before)) > 0 {
		engine, err := s.engine(before.Protocol())
		if err != nil {
			return err
		}
		if len(entry) == 0 {
			return broken(ruleOwnEntry, "the group lists %s in external_senders: the target's entry is needed", m.Source)
		}
		if want, err = engine.(mls.ExternalSenders).Swap(want, []byte(m.Source), []byte(m.Target), entry); err != nil {
			return err
		}
		swaps = 1
	}
	if byValue != swaps || !bytes.Equal(st.effects.ExtensionsAfter, want) {
		return broken(ruleOwnEntry, "the Commit does not give the external_senders entry of %s to %s", m.Source, m.Target)
	}
	return nil
}

// settle is how long after the news of a change the room's state is asked: the host tells it before it has committed it.
const settle = time.Second

// RoomChanged is to be called when somebody has left a room or its pointer has changed, as often as one likes: this server looks after
// the groups bound to it.
func (s *Service) RoomChanged(ctx context.Context, roomID string) error {
	groups, err := s.Store.GroupsInRoom(ctx, roomID)
	if err != nil {
		return err
	}
	for i := range groups {
		if !hosted(&groups[i]) {
			continue
		}
		row := s.expelRow(&groups[i], uint64(s.Now().UnixNano()))
		row.Due = row.Due.Add(settle)
		err := s.apply(ctx, &storage.Change{Rows: []storage.Row{row}})
		if err != nil && !errors.Is(err, storage.ErrConflict) {
			return err
		}
	}
	return nil
}

// hosted says whether a group lives here, in this term.
func hosted(g *storage.Group) bool {
	return g.State == migration.GroupActive || g.State == migration.GroupFrozen
}

// expelRow is a row by which this server looks after a group: whether it is still here, and who of its members is not in the room.
func (s *Service) expelRow(g *storage.Group, order uint64) storage.Row {
	return storage.Row{
		Destination: s.Server, Queue: "expel/" + fanOutQueue(g), Order: order, Kind: migration.RowExpel, GroupID: g.ID, Term: g.Term, Due: s.Now(),
	}
}

// followRoom does what a change of the room asks for.
func (s *Service) followRoom(ctx context.Context, row *storage.Row) error {
	g, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: row.GroupID, Term: row.Term})
	if err != nil {
		return err
	}
	if stateOf(g).Owned() {
		if err := s.takePointer(ctx, g); err != nil {
			return err
		}
	}
	return s.expel(ctx, row)
}

// expel proposes to remove the leaves of users who are not joined to the room, where the group lets this server propose.
func (s *Service) expel(ctx context.Context, row *storage.Row) error {
	defer s.locks.lock(row.GroupID)()
	return retryConflicts(func() error {
		g, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: row.GroupID, Term: row.Term})
		if err != nil {
			return err
		}
		if g.State != migration.GroupActive { // frozen: the set of proposals is closed; what follows asks again
			return s.done(ctx, row)
		}
		l, err := s.live(ctx, g)
		if err != nil {
			return err
		}
		own := ownEntries(g.Server, l.mls)
		if len(own) == 0 {
			return s.done(ctx, row)
		}
		leaves, err := s.strangers(ctx, g, l)
		if err != nil {
			return err
		}
		if len(leaves) == 0 {
			return s.done(ctx, row)
		}
		return s.proposeRemoves(ctx, g, l, own[0], leaves, row)
	})
}

// expelShare is the share of a group's leaves above which nothing is proposed at once: rather has the room's state been reset.
const expelShare = 0.5

// strangers lists the leaves of users who are not joined to the room and whose removal is not proposed yet.
func (s *Service) strangers(ctx context.Context, g *storage.Group, l *live) (leaves []uint32, err error) {
	gone, err := s.Rooms.NotJoined(ctx, g.RoomID, l.roster.users())
	if err != nil || len(gone) == 0 {
		return nil, err
	}
	pending := pendingRemoves(g.Server, l.mls)
	total := 0
	for m := range l.mls.Members() {
		id, err := identity(m)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(gone, id.UserID) {
			continue
		}
		if total++; !slices.Contains(pending, m.Leaf) {
			leaves = append(leaves, m.Leaf)
		}
	}
	if float64(total) > expelShare*float64(l.mls.NumMembers()) {
		s.Log.Error("most of a group's members have left its room at once: nothing is proposed", "room", g.RoomID, "leaves", total)
		return nil, mimiport.Errorf("expel", mimiport.KindInProgress, "%d of %d leaves at once", total, l.mls.NumMembers())
	}
	return leaves, nil
}

// proposeRemoves accepts this server's own proposals into the log.
func (s *Service) proposeRemoves(ctx context.Context, g *storage.Group, l *live, index uint32, leaves []uint32, row *storage.Row) error {
	o, err := s.sender(ctx, g.Server, g.Protocol, g.CipherSuite)
	if err != nil {
		return err
	}
	st := &step{next: l.mls}
	for _, leaf := range leaves {
		message, err := o.mls.ProposeRemove(l.mls, o.private, index, leaf)
		if err != nil {
			return err
		}
		if st.next, _, err = st.next.Propose(message); err != nil {
			return err
		}
		st.entries = append(st.entries, storage.Entry{Kind: storage.EntryProposal, Epoch: g.Epoch, Message: message})
	}
	next, change := s.extend(g, l, st)
	change.Done = []storage.RowKey{row.Key()}
	if err := s.apply(ctx, change); err != nil {
		return err
	}
	s.advance(next, l, st)
	return nil
}
