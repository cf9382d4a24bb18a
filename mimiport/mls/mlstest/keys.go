package mlstest

import (
	"crypto/ecdh"
	"math/rand/v2"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// XWing is a cipher suite with the KEM X-Wing, SHA-256, Ed25519, and public keys of 1,216 bytes. An engine knows it
// only through Limits.WithSuite.
const XWing uint16 = 0x004d

const xWingKey = 1216

func suiteByID(id uint16) *rfc9420.Suite {
	if id == XWing {
		return rfc9420.NewSuite(XWing, "SHA-256", "Ed25519", xWingKey)
	}
	return rfc9420.SuiteByID(id)
}

// random draws bytes from a seed. The same seed and the same calls give the same bytes.
type random struct{ source *rand.ChaCha8 }

func newRandom(seed uint64) random {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return random{rand.NewChaCha8(key)}
}

func (r random) bytes(n int) []byte {
	b := make([]byte, n)
	r.source.Read(b)
	return b
}

// signingKey draws a signature key of a suite. Its signatures are deterministic.
func (r random) signingKey(suite *rfc9420.Suite) *rfc9420.SigningKey {
	return must(suite.SigningKey(must(suite.GenerateSigningKey(r.source))))
}

// scalar draws a number below the order of a curve, in as many bytes as the order.
func (r random) scalar(bits int) []byte {
	b := r.bytes((bits + 7) / 8)
	b[0] = 0
	return b
}

// encryptionKey makes a public key of a suite's KEM. Nobody keeps a private key.
func (r random) encryptionKey(suite uint16) []byte {
	switch suite {
	case 1, 3:
		return r.bytes(32)
	case 4, 6:
		return r.bytes(56)
	case XWing:
		return r.bytes(xWingKey)
	case 2:
		return must(ecdh.P256().NewPrivateKey(r.scalar(256))).PublicKey().Bytes()
	case 5:
		return must(ecdh.P521().NewPrivateKey(r.scalar(521))).PublicKey().Bytes()
	default:
		return must(ecdh.P384().NewPrivateKey(r.scalar(384))).PublicKey().Bytes()
	}
}

// must panics for an error. Only a mistake in a test can cause one.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func marshal(v rfc9420.Value) []byte { return must(rfc9420.Marshal(v)) }

// reread encodes and decodes v. The result has its encoding in Raw.
func reread[T any, P interface {
	*T
	rfc9420.Value
}](v P) P {
	out := P(new(T))
	if !rfc9420.Unmarshal(marshal(v), out) {
		panic("mlstest: not well-formed")
	}
	return out
}

// vector encodes contents as a vector.
func vector(contents []byte) []byte {
	var b cryptobyte.Builder
	wire.AddOpaque(&b, contents)
	return must(b.Bytes())
}
