package mimiport

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// labelPrefix starts every label under which a Delivery Service signs (profile, section 2).
const labelPrefix = "MIMI Portability 1.0 "

// MigrationInitLabel is the SignWithLabel label of a client's signature on a MigrationInit (profile, section 2).
const MigrationInitLabel = "MigrationInitTBS"

// signContent encodes SignContent{label, content} of profile, section 2. Its first byte is the length of a label
// shorter than 64 bytes, so it never is the '{' (0x7b) of the JSON that Matrix signs with the same keys.
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

// Signed is a message that a Delivery Service signs with its Matrix federation key: MigrationResponse, MigrationContent,
// TargetMigrationComplete, MigrationConfirmation, MigrationAbort, LineageClaim, CommitReceipt, ExternalSenderOffer.
type Signed interface {
	signed
	serverSigned()
}

func (*MigrationResponse) serverSigned()       {}
func (*MigrationContent) serverSigned()        {}
func (*TargetMigrationComplete) serverSigned() {}
func (*MigrationConfirmation) serverSigned()   {}
func (*MigrationAbort) serverSigned()          {}
func (*LineageClaim) serverSigned()            {}
func (*CommitReceipt) serverSigned()           {}
func (*ExternalSenderOffer) serverSigned()     {}

// Sign sets m's signature: 64 bytes, Ed25519 (profile, section 2).
func Sign(m Signed, key ed25519.PrivateKey) error {
	tbs, err := signContent(m)
	if err != nil {
		return err
	}
	*m.signature() = ed25519.Sign(key, tbs)
	return nil
}

// Verify checks m's signature, or returns a KindBadSignature error.
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

// TBS is what the client signs: SignWithLabel(leaf key, MigrationInitLabel, TBS) (profile, section 2).
func (m *MigrationInit) TBS() ([]byte, error) { return unsigned(m) }

// MigrationID names one migration: SHA-256 of the MigrationResponse without its signature (profile, section 1).
type MigrationID [sha256.Size]byte

// ID is the id of the migration that this offer is for.
func (m *MigrationResponse) ID() MigrationID {
	b, err := unsigned(m)
	if err != nil {
		return MigrationID{} // a field longer than 2^30-1 bytes: no such offer can be sent
	}
	return sha256.Sum256(b)
}

// IDText is an id as it stands in paths, logs and the output of tools: unpadded base64url.
func IDText(id []byte) string { return base64.RawURLEncoding.EncodeToString(id) }

// String is the id in unpadded base64url: 43 characters.
func (id MigrationID) String() string { return IDText(id[:]) }

// ParseBase64URL reads unpadded base64url, or returns a KindBadMessage error. Nothing else is taken for the same bytes.
func ParseBase64URL(s string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || base64.RawURLEncoding.EncodedLen(len(b)) != len(s) { // the decoder skips line ends
		return nil, Errorf("read base64url", KindBadMessage, "not unpadded base64url")
	}
	return b, nil
}

// ParseMigrationID reads what String prints, or returns a KindBadMessage error.
func ParseMigrationID(s string) (id MigrationID, err error) {
	b, err := ParseBase64URL(s)
	if err != nil || len(b) != len(id) {
		return id, Errorf("parse migration id", KindBadMessage, "not 43 characters of base64url")
	}
	copy(id[:], b)
	return id, nil
}

// GroupIDPreimage is what a group id created by this profile is the hash of (profile, section 3).
type GroupIDPreimage struct {
	CreatingServer string `json:"creating_server"`
	RoomID         string `json:"room_id"`
	Nonce          Nonce  `json:"nonce"`
}

// GroupID is the 32-byte id: SHA-256 over the label and the parts, each as a vector (profile, section 3). It is nil where a
// part is longer than its vector can state: no group has that id.
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
