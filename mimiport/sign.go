package mimiport

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// labelPrefix is the prefix of every label with which a Delivery Service signs (profile, section 2).
const labelPrefix = "MIMI Portability 1.0 "

// MigrationInitLabel is the SignWithLabel label of a client's signature on a MigrationInit (profile, section 2).
const MigrationInitLabel = "MigrationInitTBS"

// signContent encodes SignContent{label, content} (profile, section 2). The first byte is the length of the label,
// which is less than 64. So the content never begins with '{' (0x7b), as the JSON does that Matrix signs with the same
// keys.
func signContent(m signed) ([]byte, error) {
	content, err := unsigned(m)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	wire.AddOpaque(&b, []byte(labelPrefix+m.name()))
	wire.AddOpaque(&b, content)
	return b.Bytes()
}

func unsigned(m signed) ([]byte, error) {
	var b cryptobyte.Builder
	m.encodeUnsigned(&b)
	return b.Bytes()
}

// Signed is a message that a Delivery Service signs with its Matrix federation key: MigrationResponse,
// MigrationContent, TargetMigrationComplete, MigrationVote, MigrationConfirmation, MigrationAbort, LineageClaim,
// CommitReceipt, ExternalSenderOffer or MoveRequest.
type Signed interface {
	signed
	serverSigned()
}

func (*MigrationResponse) serverSigned()       {}
func (*MigrationContent) serverSigned()        {}
func (*TargetMigrationComplete) serverSigned() {}
func (*MigrationVote) serverSigned()           {}
func (*MigrationConfirmation) serverSigned()   {}
func (*MigrationAbort) serverSigned()          {}
func (*LineageClaim) serverSigned()            {}
func (*CommitReceipt) serverSigned()           {}
func (*ExternalSenderOffer) serverSigned()     {}
func (*MoveRequest) serverSigned()             {}

// Sign signs m with Ed25519 and sets its signature of 64 bytes (profile, section 2). It returns an error for a field
// that is too long for its vector.
func Sign(m Signed, key ed25519.PrivateKey) error {
	tbs, err := signContent(m)
	if err != nil {
		return err
	}
	*m.signature() = ed25519.Sign(key, tbs)
	return nil
}

// Verify verifies m's signature. It returns a KindBadSignature error when the signature does not verify.
func Verify(m Signed, key ed25519.PublicKey) error {
	tbs, err := signContent(m)
	if err != nil {
		return err
	}
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, tbs, *m.signature()) {
		return &Error{Op: "verify " + m.name(), Kind: KindBadSignature, Err: errors.New("the signature does not verify")}
	}
	return nil
}

// TBS returns the content that the client signs: SignWithLabel(leaf key, MigrationInitLabel, TBS) (profile, section 2).
func (m *MigrationInit) TBS() ([]byte, error) { return unsigned(m) }

// MigrationID identifies a migration. It is the SHA-256 of the MigrationResponse without its signature (profile,
// section 1).
type MigrationID [sha256.Size]byte

// ID computes the id of the migration that this offer is for.
func (m *MigrationResponse) ID() MigrationID {
	b, err := unsigned(m)
	if err != nil {
		return MigrationID{} // a field has more than 2^30-1 bytes: nobody can send such an offer
	}
	return sha256.Sum256(b)
}

// IDText encodes an id in unpadded base64url. Ids have this form in paths, logs and the output of tools.
func IDText(id []byte) string { return base64.RawURLEncoding.EncodeToString(id) }

// String encodes the id in unpadded base64url, in 43 characters.
func (id MigrationID) String() string { return IDText(id[:]) }

// ParseBase64URL decodes unpadded base64url, or returns a KindBadMessage error. It accepts only one text for the same
// bytes.
func ParseBase64URL(s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || base64.RawURLEncoding.EncodedLen(len(b)) != len(s) { // the decoder would skip line ends
		return nil, Errorf("read base64url", KindBadMessage, "not unpadded base64url")
	}
	return b, nil
}

// ParseMigrationID decodes the result of String, or returns a KindBadMessage error.
func ParseMigrationID(s string) (id MigrationID, err error) {
	b, err := ParseBase64URL(s)
	if err != nil || len(b) != len(id) {
		return id, Errorf("parse migration id", KindBadMessage, "not 43 characters of base64url")
	}
	copy(id[:], b)
	return id, nil
}

// GroupIDPreimage is the input of the hash that makes a group id of this profile (profile, section 3).
type GroupIDPreimage struct {
	CreatingServer string `json:"creating_server"`
	RoomID         string `json:"room_id"`
	Nonce          Nonce  `json:"nonce"`
}

// GroupID computes the id of 32 bytes: the SHA-256 of the label and the parts, each encoded as a vector (profile,
// section 3). It returns nil when a part is too long for a vector. No group has that id.
func (p *GroupIDPreimage) GroupID() []byte {
	var b cryptobyte.Builder
	addString(&b, labelPrefix+"GroupID")
	addString(&b, p.CreatingServer)
	addString(&b, p.RoomID)
	wire.AddOpaque(&b, p.Nonce[:])
	parts, err := b.Bytes()
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(parts)
	return sum[:]
}
