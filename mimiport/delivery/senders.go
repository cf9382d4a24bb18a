package delivery

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// senders makes this server an external sender of groups. The server has one key for each protocol and signature
// scheme. None of them is the federation key (profile, section 4).
type senders struct{ *Deps }

// ownSender is this server as an external sender of groups of one cipher suite.
type ownSender struct {
	mls     mls.ExternalSenders
	private []byte
	entry   mls.ExternalSender
	encoded []byte
}

// sender returns this server as an external sender under the name server, or nil if the protocol has no external
// senders. The first call for a key makes the key.
func (s senders) sender(ctx context.Context, server, protocol string, cipherSuite uint16) (*ownSender, error) {
	engine, err := s.Engines.Find(protocol)
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
	setting := fmt.Sprintf("external-sender/%s/%s", protocol, scheme)
	if o.private, err = s.senderKey(ctx, external, cipherSuite, setting); err != nil {
		return nil, err
	}
	o.entry, o.encoded, err = external.Entry(cipherSuite, o.private, []byte(server))
	return o, err
}

func (s senders) senderKey(
	ctx context.Context, external mls.ExternalSenders, cipherSuite uint16, setting string,
) (private []byte, err error) {
	stored, err := s.Store.Setting(ctx, setting)
	if errors.Is(err, storage.ErrNotFound) {
		stored, err = s.drawKey(ctx, external, cipherSuite, setting)
	}
	if err != nil {
		return nil, err
	}
	err = plainjson.Unmarshal(stored, &private)
	return private, err
}

// drawKey stores a new key and returns the stored key. If another request has stored a key first, that key stays.
func (s senders) drawKey(
	ctx context.Context, external mls.ExternalSenders, cipherSuite uint16, setting string,
) (json.RawMessage, error) {
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

// senderEntry returns the encoded entry to hand out, or nil if the request asks for none.
func (s senders) senderEntry(ctx context.Context, server string, req api.SuiteRequest) ([]byte, error) {
	if req.CipherSuite == 0 {
		return nil, nil
	}
	o, err := s.sender(ctx, server, req.Protocol, req.CipherSuite)
	if o == nil || err != nil {
		return nil, err
	}
	return o.encoded, nil
}

// ownEntries lists the indexes of a group's external_senders entries that name a server.
func ownEntries(server string, g mls.Group) []uint32 { return entriesOf(server, g.ExternalSenders()) }

// entriesOf lists the indexes of the entries that name a server.
func entriesOf(server string, entries []mls.ExternalSender) (indexes []uint32) {
	for i, e := range entries {
		if string(e.Identity) == server {
			indexes = append(indexes, uint32(i))
		}
	}
	return indexes
}

// requireOwnKey fails if an entry of a group's external_senders names this server with a key that is not this server's.
func (s senders) requireOwnKey(ctx context.Context, server string, g mls.Group, entries []mls.ExternalSender) error {
	indexes := entriesOf(server, entries)
	if len(indexes) == 0 {
		return nil
	}
	o, err := s.sender(ctx, server, g.Protocol(), g.CipherSuite())
	if err != nil {
		return err
	}
	for _, i := range indexes {
		if o == nil || !bytes.Equal(entries[i].SignatureKey, o.entry.SignatureKey) {
			return broken(ruleOwnEntry, "external_senders names %s with a key that it has not given out", server)
		}
	}
	return nil
}

// requireOwnEntries fails if a group's new external_senders drop or forge an entry of this server.
func (s senders) requireOwnEntries(
	ctx context.Context, server string, before mls.Group, after []mls.ExternalSender,
) error {
	if len(entriesOf(server, after)) < len(ownEntries(server, before)) {
		return broken(ruleOwnEntry, "the external_senders entry of %s is missing", server)
	}
	return s.requireOwnKey(ctx, server, before, after)
}

// offeredEntry returns the verified external_senders entry of the target from an Init, or nil.
func (s senders) offeredEntry(
	ctx context.Context, id mimiport.MigrationID, target string, req *api.MigrationInitRequest,
) ([]byte, error) {
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
	return offer.ExternalSender, s.requireSigned(ctx, target, req.KeyID, offer)
}

// requireSwap fails unless the Commit replaces the source's external_senders entry with the target's by one
// GroupContextExtensions by value (profile, section 5). If no entry names the source, the Commit must have no
// GroupContextExtensions.
func (s senders) requireSwap(m *migration.Migration, before mls.Group, a *registry.Accepted, entry []byte) error {
	byValue := 0
	for _, p := range a.Effects.Proposals {
		switch {
		case p.Ref == nil && p.Type == mls.ProposalGroupContextExtensions:
			byValue++
		case p.Ref == nil:
			return broken(ruleMigrationCommit, "the Commit has a proposal by value")
		case p.Type == mls.ProposalReInit, p.Type == mls.ProposalGroupContextExtensions, p.Type == mls.ProposalAppDataUpdate:
			return broken(ruleMigrationCommit, "the Commit references a proposal of type %d", p.Type)
		}
	}
	want, swaps := a.Effects.ExtensionsBefore, 0
	if len(ownEntries(m.Source, before)) > 0 {
		engine, err := s.Engines.Find(before.Protocol())
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
	if byValue != swaps || !bytes.Equal(a.Effects.ExtensionsAfter, want) {
		return broken(ruleOwnEntry, "the Commit does not give the external_senders entry of %s to %s", m.Source, m.Target)
	}
	return nil
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
