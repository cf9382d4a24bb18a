package mimiport

import (
	"crypto/sha256"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// DirectRequest is an HTTP request of a device to the Delivery Service of another homeserver. The device signs it with
// its MLS key (profile, sections 7 and 10).
type DirectRequest struct {
	Service   string            `json:"service"` // the server name of the Delivery Service
	Method    string            `json:"method"`
	URI       string            `json:"uri"` // path and query, exactly as sent
	BodyHash  [sha256.Size]byte `json:"body_hash"`
	UserID    string            `json:"user_id"`
	DeviceID  string            `json:"device_id"`
	Time      uint64            `json:"time"` // milliseconds since 1970
	Nonce     Nonce             `json:"nonce"`
	Signature []byte            `json:"signature"`
}

func (m *DirectRequest) name() string       { return "DirectRequest" }
func (m *DirectRequest) signature() *[]byte { return &m.Signature }
func (m *DirectRequest) encodeUnsigned(b *cryptobyte.Builder) {
	addString(b, m.Service)
	addString(b, m.Method)
	addString(b, m.URI)
	wire.AddOpaque(b, m.BodyHash[:])
	addString(b, m.UserID)
	addString(b, m.DeviceID)
	b.AddUint64(m.Time)
	wire.AddOpaque(b, m.Nonce[:])
}
func (m *DirectRequest) encode(b *cryptobyte.Builder) { encodeSigned(b, m) }
func (m *DirectRequest) decode(s *cryptobyte.String) bool {
	return readString(s, &m.Service) && readString(s, &m.Method) && readString(s, &m.URI) &&
		readOpaque32(s, &m.BodyHash) && readString(s, &m.UserID) && readString(s, &m.DeviceID) &&
		readEpoch(s, &m.Time) && readOpaque32(s, (*[32]byte)(&m.Nonce)) && wire.ReadOpaque(s, &m.Signature)
}

// Marshal encodes the request.
func (m *DirectRequest) Marshal() ([]byte, error) { return marshal(m) }

// UnmarshalDirectRequest decodes data, or returns a KindBadMessage error.
func UnmarshalDirectRequest(data []byte) (*DirectRequest, error) {
	return unmarshal[DirectRequest](data)
}

// SignContent returns the bytes that the device signs with its key's scheme. They have no other label (profile, section
// 2).
func (m *DirectRequest) SignContent() ([]byte, error) { return signContent(m) }
