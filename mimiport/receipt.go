package mimiport

import (
	"crypto/sha256"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// CommitReceipt is a host's signed statement that it accepted a Commit (profile, sections 3 and 10).
type CommitReceipt struct {
	GroupID    []byte            `json:"group_id"`
	Term       uint64            `json:"term"`
	Epoch      uint64            `json:"epoch"` // the epoch that the Commit starts
	Seq        uint64            `json:"seq"`   // the Commit's number in the log of the term
	CommitHash [sha256.Size]byte `json:"commit_hash"`
	Signature  []byte            `json:"signature"`
}

func (m *CommitReceipt) name() string       { return "CommitReceipt" }
func (m *CommitReceipt) signature() *[]byte { return &m.Signature }
func (m *CommitReceipt) encodeUnsigned(b *cryptobyte.Builder) {
	wire.AddOpaque(b, m.GroupID)
	b.AddUint64(m.Term)
	b.AddUint64(m.Epoch)
	b.AddUint64(m.Seq)
	wire.AddOpaque(b, m.CommitHash[:])
}
func (m *CommitReceipt) encode(b *cryptobyte.Builder) { encodeSigned(b, m) }
func (m *CommitReceipt) decode(s *cryptobyte.String) bool {
	return wire.ReadOpaque(s, &m.GroupID) && readEpoch(s, &m.Term) && readEpoch(s, &m.Epoch) && readEpoch(s, &m.Seq) &&
		readOpaque32(s, &m.CommitHash) && wire.ReadOpaque(s, &m.Signature)
}

// Marshal encodes the receipt.
func (m *CommitReceipt) Marshal() ([]byte, error) { return marshal(m) }

// UnmarshalCommitReceipt decodes data, or returns a KindBadMessage error.
func UnmarshalCommitReceipt(data []byte) (*CommitReceipt, error) {
	return unmarshal[CommitReceipt](data)
}
