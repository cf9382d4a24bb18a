package mimiport

import (
	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// MaxMoveTargets is the largest number of targets in a MoveRequest.
const MaxMoveTargets = 16

// MoveRequest is the request of a group's host to a member to move the group to one of the targets, the first choice
// first. The host signs it (profile, section 8).
type MoveRequest struct {
	SourceDomain string   `json:"source_domain"`
	GroupID      []byte   `json:"group_id"`
	Term         uint64   `json:"term"`
	RoomID       string   `json:"room_id"`
	UserID       string   `json:"user_id"`
	Targets      []string `json:"targets"`
	ExpiresAt    uint64   `json:"expires_at"` // milliseconds since 1970
	Signature    []byte   `json:"signature"`
}

func (m *MoveRequest) name() string       { return "MoveRequest" }
func (m *MoveRequest) signature() *[]byte { return &m.Signature }
func (m *MoveRequest) encodeUnsigned(b *cryptobyte.Builder) {
	addString(b, m.SourceDomain)
	wire.AddOpaque(b, m.GroupID)
	b.AddUint64(m.Term)
	addString(b, m.RoomID)
	addString(b, m.UserID)
	wire.AddVector(b, func(b *cryptobyte.Builder) {
		for _, target := range m.Targets {
			addString(b, target)
		}
	})
	b.AddUint64(m.ExpiresAt)
}
func (m *MoveRequest) encode(b *cryptobyte.Builder) { encodeSigned(b, m) }
func (m *MoveRequest) decode(s *cryptobyte.String) bool {
	var targets cryptobyte.String
	if !readString(s, &m.SourceDomain) || !wire.ReadOpaque(s, &m.GroupID) || !readEpoch(s, &m.Term) ||
		!readString(s, &m.RoomID) || !readString(s, &m.UserID) || !wire.ReadVector(s, &targets) {
		return false
	}
	for !targets.Empty() {
		var target string
		if len(m.Targets) == MaxMoveTargets || !readString(&targets, &target) {
			return false
		}
		m.Targets = append(m.Targets, target)
	}
	return readEpoch(s, &m.ExpiresAt) && wire.ReadOpaque(s, &m.Signature)
}

// Marshal encodes the request.
func (m *MoveRequest) Marshal() ([]byte, error) { return marshal(m) }

// UnmarshalMoveRequest decodes data, or returns a KindBadMessage error.
func UnmarshalMoveRequest(data []byte) (*MoveRequest, error) { return unmarshal[MoveRequest](data) }
