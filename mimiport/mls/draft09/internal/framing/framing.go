// Package framing encodes and decodes the structures of github.com/cisco/go-mls. It also builds the inputs of the
// signatures and transcript hashes, which go-mls does not export.
//
// The decoders of go-mls panic on much hostile input and decode trees in quadratic time, so they get no input from a
// client. The decoder of this package checks every length and every count first.
package framing

import (
	"bytes"
	"errors"

	gomls "github.com/cisco/go-mls"
	syntax "github.com/cisco/go-tls-syntax"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// MaxMessage is the largest size of a message in bytes. A GroupInfo of MaxLeaves members has about a tenth of it.
const MaxMessage = 1 << 20

// Kind is the first byte of a message. The encoding of go-mls, which follows it, does not name its own kind. The
// numbers are those of the wire formats of RFC 9420, section 6. None is zero: a message of RFC 9420 begins with a zero
// byte.
type Kind uint8

// The kinds of message.
const (
	KindPlaintext  Kind = 1
	KindCiphertext Kind = 2
	KindWelcome    Kind = 3
	KindGroupInfo  Kind = 4
	KindKeyPackage Kind = 5
)

// Message is one message. Only Body and the field of its kind are set.
type Message struct {
	Body       []byte // the encoding of go-mls
	Plaintext  *gomls.MLSPlaintext
	Ciphertext *gomls.MLSCiphertext
	Welcome    *gomls.Welcome
	GroupInfo  *gomls.GroupInfo
	KeyPackage *gomls.KeyPackage
}

// The errors of a message that does not decode.
var (
	ErrMessage     = problem(mimiport.KindBadMessage, "not a well-formed message of go-mls of the expected kind")
	errSize        = problem(mimiport.KindTooLarge, "the message is too long")
	errCount       = problem(mimiport.KindTooLarge, "a list is longer than a group of 128 leaves needs")
	errSuite       = problem(mimiport.KindUnsupported, "the protocol version or cipher suite is not supported")
	errCredential  = problem(mimiport.KindUnsupported, "only basic credentials are supported")
	errNotEncoding = errors.New("framing: not a message of go-mls")
)

func problem(kind mimiport.Kind, text string) *mimiport.Error {
	return &mimiport.Error{Kind: kind, Err: errors.New(text)}
}

// Encode encodes a message. v is a pointer to one of the structures in Message. Any other type is an error.
func Encode(v any) ([]byte, error) {
	var kind Kind
	switch v.(type) {
	case *gomls.MLSPlaintext:
		kind = KindPlaintext
	case *gomls.MLSCiphertext:
		kind = KindCiphertext
	case *gomls.Welcome:
		kind = KindWelcome
	case *gomls.GroupInfo:
		kind = KindGroupInfo
	case *gomls.KeyPackage:
		kind = KindKeyPackage
	default:
		return nil, errNotEncoding
	}
	body, err := syntax.Marshal(v)
	return append([]byte{byte(kind)}, body...), err
}

// Decode decodes a message of any kind. The message keeps slices of the input. Decode returns a *mimiport.Error:
// KindBadMessage for trailing bytes and for a message that go-mls would not encode identically, KindTooLarge beyond
// MaxMessage or the length of a list, KindUnsupported for another version, cipher suite or credential.
func Decode(message []byte) (*Message, error) {
	if len(message) > MaxMessage {
		return nil, errSize
	}
	if len(message) == 0 {
		return nil, ErrMessage
	}
	m := &Message{Body: message[1:]}
	r := &reader{in: m.Body}
	var v any
	switch Kind(message[0]) {
	case KindPlaintext:
		m.Plaintext = pointer(r.plaintext())
		v = m.Plaintext
	case KindCiphertext:
		m.Ciphertext = pointer(r.ciphertext())
		v = m.Ciphertext
	case KindWelcome:
		m.Welcome = pointer(r.welcome())
		v = m.Welcome
	case KindGroupInfo:
		m.GroupInfo = pointer(r.groupInfo())
		v = m.GroupInfo
	case KindKeyPackage:
		m.KeyPackage = pointer(r.keyPackage())
		v = m.KeyPackage
	default:
		return nil, ErrMessage
	}
	switch {
	case r.err != nil:
		return nil, r.err
	case !r.in.Empty() || !encodesTo(v, m.Body):
		return nil, ErrMessage
	}
	return m, nil
}

func pointer[T any](v T) *T { return &v }

// encodesTo reports whether go-mls encodes a structure to these bytes.
func encodesTo(v any, data []byte) bool {
	again, err := syntax.Marshal(v)
	return err == nil && bytes.Equal(again, data)
}
