// Package framing encodes and decodes the structures of github.com/cisco/go-mls, and rebuilds the inputs of its signatures and
// transcript hashes, which it does not export.
//
// go-mls panics on much hostile input and decodes trees in quadratic time, so nothing that a client sent reaches its decoders:
// the one here checks every length and every count first.
package framing

import (
	"bytes"
	"errors"

	gomls "github.com/cisco/go-mls"
	syntax "github.com/cisco/go-tls-syntax"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// MaxMessage is the largest message, in bytes. A GroupInfo of MaxLeaves members has about a tenth of it.
const MaxMessage = 1 << 20

// Kind is the byte before the encoding of go-mls, which carries no sign of what it is. The numbers are those of the wire formats of
// RFC 9420, section 6; none is zero, with which a message of RFC 9420 begins.
type Kind uint8

// The kinds of message.
const (
	KindPlaintext  Kind = 1
	KindCiphertext Kind = 2
	KindWelcome    Kind = 3
	KindGroupInfo  Kind = 4
	KindKeyPackage Kind = 5
)

// Message is one message; the field of its kind is set.
type Message struct {
	Body       []byte // the encoding of go-mls
	Plaintext  *gomls.MLSPlaintext
	Ciphertext *gomls.MLSCiphertext
	Welcome    *gomls.Welcome
	GroupInfo  *gomls.GroupInfo
	KeyPackage *gomls.KeyPackage
}

// What is wrong with a message that does not decode.
var (
	ErrMessage     = &mimiport.Error{Kind: mimiport.KindBadMessage, Err: errors.New("not a well-formed message of go-mls of the kind wanted")}
	errSize        = &mimiport.Error{Kind: mimiport.KindTooLarge, Err: errors.New("the message is too long")}
	errCount       = &mimiport.Error{Kind: mimiport.KindTooLarge, Err: errors.New("a list is longer than a group of 128 leaves needs")}
	errSuite       = &mimiport.Error{Kind: mimiport.KindUnsupported, Err: errors.New("the protocol version or cipher suite is not supported")}
	errCredential  = &mimiport.Error{Kind: mimiport.KindUnsupported, Err: errors.New("only basic credentials are supported")}
	errNotEncoding = errors.New("framing: not a message of go-mls")
)

// Encode encodes a message: a pointer to one of the structures of Message.
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

// Decode decodes a message of any kind. The message keeps slices of the input. It returns a *mimiport.Error for trailing bytes,
// for anything that go-mls would not encode identically, and for what is larger or other than this package supports.
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
