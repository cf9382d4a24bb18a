package mimiport

import (
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// maxServerName is the largest size of a Matrix identifier in bytes, and so of a server name in one (Matrix
// specification, appendices, "User identifiers").
const maxServerName = 255

// ValidateServerName checks that name is a Matrix server name of at most 255 bytes: a host with an optional port
// (Matrix specification, appendices, "Server name"). It returns a KindBadMessage error for any other string. Two names
// are the same only if they are equal byte for byte.
func ValidateServerName(name string) error {
	const op = "validate server name"
	if len(name) > maxServerName {
		return Errorf(op, KindBadMessage, "a name of %d bytes is too long", len(name))
	}
	if _, _, ok := spec.ParseAndValidateServerName(spec.ServerName(name)); !ok {
		return Errorf(op, KindBadMessage, "%q is not a server name", name)
	}
	return nil
}

// IsIPLiteral reports whether a valid server name is an IP address and not a DNS name. It takes every host whose last
// label is a number for an address: resolvers read 127.1 and 0x7f.1 as addresses, and no top-level domain is a number.
func IsIPLiteral(name string) bool {
	host, _, _ := spec.ParseAndValidateServerName(spec.ServerName(name))
	host = strings.TrimSuffix(host, ".")
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	if hex, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.HasPrefix(host, "[") || last != "" && strings.Trim(last, "0123456789") == ""
}
