package mimiport

import (
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// maxServerName is the length in bytes of the longest Matrix identifier, hence of any server name in one (Matrix
// specification, appendices, "User identifiers").
const maxServerName = 255

// ValidateServerName checks that name is a full Matrix server name, a host with an optional port, of at most 255 bytes
// (Matrix specification, appendices, "Server name"). It returns a KindBadMessage error. Names are compared byte for byte.
func ValidateServerName(name string) error {
	const op = "validate server name"
	if len(name) > maxServerName {
		return Errorf(op, KindBadMessage, "%d bytes", len(name))
	}
	if _, _, ok := spec.ParseAndValidateServerName(spec.ServerName(name)); !ok {
		return Errorf(op, KindBadMessage, "%q is not one", name)
	}
	return nil
}

// IsIPLiteral says whether a valid server name is an IP address rather than a DNS name. A host whose last label is a
// number counts: resolvers read 127.1 and 0x7f.1 as addresses, and no top-level domain is a number.
func IsIPLiteral(name string) bool {
	host, _, _ := spec.ParseAndValidateServerName(spec.ServerName(name))
	host = strings.TrimSuffix(host, ".")
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.HasPrefix(host, "[") || last != "" && strings.Trim(last, "0123456789") == ""
}
