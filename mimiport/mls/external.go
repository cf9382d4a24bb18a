package mls

import (
	"io"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// ExternalSenders is an interface that an Engine also implements when its protocol lets a Delivery Service propose
// removals (RFC 9420, section 12.1.8.1). The Delivery Service has one key for each signature scheme.
type ExternalSenders interface {
	// Scheme is the engine's name of a cipher suite's signature scheme. It returns a KindUnsupported error for an
	// unknown suite.
	Scheme(cipherSuite uint16) (string, error)

	// GenerateKey draws a private signature key for a cipher suite.
	GenerateKey(cipherSuite uint16, random io.Reader) (private []byte, err error)

	// Entry makes the ExternalSender of a private key, with a basic credential of an identity, and its encoding.
	Entry(cipherSuite uint16, private, identity []byte) (entry ExternalSender, encoded []byte, err error)

	// ProposeRemove makes the message in which the external sender at an index proposes to remove the member at a leaf.
	ProposeRemove(g Group, private []byte, index, leaf uint32) (message []byte, err error)

	// Swap returns the extensions of a group whose Delivery Service changes from source to target (profile, section 5).
	// extensions is encoded as in Effects.ExtensionsBefore. Swap replaces the first external_senders entry that names
	// the source with entry, and removes further entries that name the source or the target. Everything else stays as
	// it was, byte for byte. Swap changes nothing when no entry names the source.
	Swap(extensions []byte, source, target, entry []byte) ([]byte, error)
}

var _ ExternalSenders = (*engine)(nil)

// suiteOf returns the cipher suite with an id, or the KindUnsupported error of an operation.
func (l *Limits) suiteOf(op string, id uint16) (*rfc9420.Suite, error) {
	suite := l.suiteByID(id)
	if suite == nil {
		return nil, mimiport.Errorf(op, mimiport.KindUnsupported, "cipher suite %d is not supported", id)
	}
	return suite, nil
}

// Scheme implements ExternalSenders.
func (e *engine) Scheme(cipherSuite uint16) (string, error) {
	suite, err := e.limits.suiteOf("find signature scheme", cipherSuite)
	if err != nil {
		return "", err
	}
	return suite.Scheme.Name, nil
}

// GenerateKey implements ExternalSenders.
func (e *engine) GenerateKey(cipherSuite uint16, random io.Reader) ([]byte, error) {
	suite, err := e.limits.suiteOf("generate key", cipherSuite)
	if err != nil {
		return nil, err
	}
	return suite.GenerateSigningKey(random)
}

// Entry implements ExternalSenders.
func (e *engine) Entry(cipherSuite uint16, private, identity []byte) (entry ExternalSender, encoded []byte, err error) {
	suite, err := e.limits.suiteOf("make external_senders entry", cipherSuite)
	if err != nil {
		return entry, nil, err
	}
	key, err := suite.SigningKey(private)
	if err != nil {
		return entry, nil, err
	}
	encoded, err = rfc9420.Marshal(&rfc9420.ExternalSender{
		SignatureKey: key.Public, Credential: rfc9420.Credential{Type: rfc9420.CredentialBasic, Contents: identity},
	})
	return ExternalSender{SignatureKey: key.Public, Identity: identity}, encoded, err
}

// ProposeRemove implements ExternalSenders.
func (e *engine) ProposeRemove(to Group, private []byte, index, leaf uint32) ([]byte, error) {
	g, ok := to.(*group)
	if !ok {
		return nil, mimiport.Errorf("propose remove", mimiport.KindUnsupported, "the group is of another engine")
	}
	key, err := g.suite.SigningKey(private)
	if err != nil {
		return nil, err
	}
	m := &rfc9420.PublicMessage{AuthenticatedContent: rfc9420.AuthenticatedContent{
		WireFormat: rfc9420.WirePublicMessage,
		Content: rfc9420.FramedContent{
			GroupID: g.ID(), Epoch: g.Epoch(), Sender: rfc9420.Sender{Type: rfc9420.SenderExternal, Index: index},
			ContentType: rfc9420.ContentProposal, Proposal: &rfc9420.Proposal{Type: rfc9420.ProposalRemove, Remove: leaf},
		},
	}}
	encoded, err := rfc9420.Marshal(&m.AuthenticatedContent)
	if err != nil {
		return nil, err
	}
	reread := new(rfc9420.AuthenticatedContent) // SignContent needs Raw, which only decoding sets
	if !rfc9420.Unmarshal(encoded, reread) {
		return nil, mimiport.Errorf("propose remove", mimiport.KindInternal, "the proposal does not decode")
	}
	if m.Signature, err = key.Sign(reread.SignContent(g.encodedContext)); err != nil {
		return nil, err
	}
	message := &rfc9420.Message{Version: rfc9420.VersionMLS10, WireFormat: rfc9420.WirePublicMessage, Public: m}
	return rfc9420.Marshal(message)
}

// Swap implements ExternalSenders.
func (e *engine) Swap(extensions []byte, source, target, entry []byte) ([]byte, error) {
	var list []byte
	in := cryptobyte.String(extensions)
	if !wire.ReadOpaque(&in, &list) || !in.Empty() {
		return nil, mimiport.Errorf("swap external_senders", mimiport.KindBadMessage, "not a list of extensions")
	}
	var out cryptobyte.Builder
	for typ, data := range rfc9420.Extensions(list).All() {
		if typ == rfc9420.ExtensionExternalSenders {
			swapped, err := swapEntries(data, string(source), string(target), entry)
			if err != nil {
				return nil, err
			}
			data = swapped
		}
		out.AddUint16(typ)
		wire.AddOpaque(&out, data)
	}
	list, err := out.Bytes()
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	wire.AddOpaque(&b, list)
	return b.Bytes()
}

func swapEntries(data []byte, source, target string, entry []byte) ([]byte, error) {
	var senders rfc9420.ExternalSenders
	if !rfc9420.Unmarshal(data, &senders) {
		return nil, mimiport.Errorf("swap external_senders", mimiport.KindBadMessage, "not a list of external senders")
	}
	index := -1
	for i := range senders {
		if string(senders[i].Credential.Identity()) == source {
			index = i
			break
		}
	}
	if index < 0 {
		return data, nil
	}
	var b cryptobyte.Builder
	wire.AddVector(&b, func(b *cryptobyte.Builder) {
		for i := range senders {
			name := string(senders[i].Credential.Identity())
			switch {
			case i == index:
				b.AddBytes(entry)
			case name != source && name != target:
				senders[i].Encode(b)
			}
		}
	})
	return b.Bytes()
}
