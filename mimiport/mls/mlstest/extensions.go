package mlstest

import (
	"bytes"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// ExternalSenders makes an external_senders extension from encoded entries, for Options.Extensions.
func ExternalSenders(entries ...[]byte) []byte {
	var b cryptobyte.Builder
	b.AddUint16(uint16(rfc9420.ExtensionExternalSenders))
	wire.AddVector(&b, func(b *cryptobyte.Builder) { wire.AddOpaque(b, bytes.Join(entries, nil)) })
	return b.BytesOrPanic()
}
