package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/hexjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// file is the content of a vector file.
type file struct {
	Struct string     `json:"struct"`
	Cases  []testCase `json:"cases"`
}

// testCase is one input and its expected outcome.
type testCase struct {
	Name          string          `json:"name"`
	Outcome       string          `json:"outcome"`
	Encoded       string          `json:"encoded"`
	Fields        json.RawMessage `json:"fields,omitempty"`
	PublicKey     string          `json:"public_key,omitempty"`
	SignedContent string          `json:"signed_content,omitempty"`
}

// structure is any structure with test vectors.
type structure interface{ Marshal() ([]byte, error) }

// suite describes the cases of one structure.
type suite struct {
	fileName string
	name     string // of the structure
	valid    []named
	// firstLength is the offset of the first vector length in the encoding of valid[0].
	firstLength int
	signer      string // the name of the signer; empty for an unsigned structure
	label       string // the label of the signature
	wrongLabels []string
	more        []testCase
}

type named struct {
	name  string
	value structure
}

func (s *suite) file() (*file, error) {
	f := &file{Struct: s.name}
	for _, v := range s.valid {
		c, err := s.validCase(v)
		if err != nil {
			return nil, err
		}
		f.Cases = append(f.Cases, c)
	}
	encoded, err := s.valid[0].value.Marshal()
	if err != nil {
		return nil, err
	}
	f.Cases = append(f.Cases, malformed(encoded, s.firstLength)...)
	if s.signer != "" {
		f.Cases = append(f.Cases, s.badSignatures(encoded)...)
	}
	f.Cases = append(f.Cases, s.more...)
	return f, nil
}

func (s *suite) validCase(v named) (testCase, error) {
	encoded, err := v.value.Marshal()
	if err != nil {
		return testCase{}, err
	}
	fields, err := hexjson.Marshal(v.value)
	if err != nil {
		return testCase{}, err
	}
	c := newCase(v.name, "valid", encoded)
	c.Fields = fields
	if s.signer != "" {
		c.PublicKey = publicKey(s.signer)
		c.SignedContent = hex.EncodeToString(signedContent(s.label, unsigned(encoded)))
	}
	return c, nil
}

func newCase(name, outcome string, encoded []byte) testCase {
	return testCase{Name: name, Outcome: outcome, Encoded: hex.EncodeToString(encoded)}
}

// malformed makes the malformed encodings that every structure has.
func malformed(encoded []byte, firstLength int) []testCase {
	before, rest := encoded[:firstLength], cryptobyte.String(encoded[firstLength:])
	var n uint32
	if !wire.ReadVarint(&rest, &n) {
		panic("the structure has no vector where its suite says")
	}
	withLength := func(length ...byte) []byte { return slices.Concat(before, length, rest) }
	return []testCase{
		newCase("empty", "truncated", nil),
		newCase("half", "truncated", encoded[:len(encoded)/2]),
		newCase("last byte missing", "truncated", encoded[:len(encoded)-1]),
		newCase("one byte more", "trailing-bytes", append(slices.Clone(encoded), 0)),
		newCase("two encodings", "trailing-bytes", append(slices.Clone(encoded), encoded...)),
		newCase("longer length", "non-minimal-length", withLength(longer(n)...)),
		newCase("length 2^30-1", "over-long-length", withLength(0xbf, 0xff, 0xff, 0xff)),
		newCase("length prefix 0b11", "reserved-length", withLength(0xc0, 0, 0, 0, 0, 0, byte(n>>8), byte(n))),
	}
}

// longer encodes a length in twice as many bytes as it needs.
func longer(n uint32) []byte {
	if n < 1<<6 {
		return []byte{0x40, byte(n)}
	}
	return []byte{0x80, byte(n >> 16), byte(n >> 8), byte(n)}
}

// signatureVector is the size of `opaque signature<V>` with an Ed25519 signature, in bytes.
const signatureVector = 2 + ed25519.SignatureSize

func unsigned(encoded []byte) []byte { return encoded[:len(encoded)-signatureVector] }

func publicKey(signer string) string {
	return hex.EncodeToString(keyOf(signer).Public().(ed25519.PublicKey))
}

// badSignatures makes well-formed encodings whose signature does not verify with the signer's key.
func (s *suite) badSignatures(encoded []byte) []testCase {
	content := unsigned(encoded)
	signature := encoded[len(encoded)-ed25519.SignatureSize:]
	with := func(name, outcome string, content, signature []byte) testCase {
		var b cryptobyte.Builder
		b.AddBytes(content)
		wire.AddOpaque(&b, signature)
		c := newCase(name, outcome, b.BytesOrPanic())
		c.PublicKey = publicKey(s.signer)
		return c
	}
	flipped := slices.Clone(signature)
	flipped[0] ^= 1
	tampered := slices.Clone(content)
	tampered[len(tampered)-1] ^= 1
	cases := []testCase{
		with("another's signature", "wrong-signer", content, signWith("stranger", s.label, content)),
		with("a bit of the signature flipped", "bad-signature", content, flipped),
		with("a bit of the content flipped", "bad-signature", tampered, signature),
		with("no signature", "bad-signature", content, nil),
		with("half a signature", "bad-signature", content, signature[:32]),
		with("signed without a label", "wrong-label", content, ed25519.Sign(keyOf(s.signer), content)),
	}
	for _, label := range s.wrongLabels {
		cases = append(cases, with("signed as "+label, "wrong-label", content, signWith(s.signer, label, content)))
	}
	return cases
}

// replaced returns v's encoding with one part replaced. The part must occur once.
func replaced(v structure, before, after []byte) []byte {
	encoded, err := v.Marshal()
	if err != nil || bytes.Count(encoded, before) != 1 {
		panic("the part to replace must occur once")
	}
	return bytes.Replace(encoded, before, after, 1)
}

// mustMarshal encodes a value that this program has made.
func mustMarshal(v structure) []byte {
	encoded, err := v.Marshal()
	if err != nil {
		panic(err)
	}
	return encoded
}
