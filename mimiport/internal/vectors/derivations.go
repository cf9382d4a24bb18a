package main

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// derived is the content of the file of computed values.
type derived struct {
	GroupIDs      []groupIDCase     `json:"group_ids"`
	MigrationIDs  []migrationIDCase `json:"migration_ids"`
	ContentHashes []contentHashCase `json:"migration_content_hashes"`
}

type groupIDCase struct {
	CreatingServer string `json:"creating_server"`
	RoomID         string `json:"room_id"`
	Nonce          string `json:"nonce"`
	Hashed         string `json:"hashed"`
	GroupID        string `json:"group_id"`
}

type migrationIDCase struct {
	MigrationResponse string `json:"migration_response"`
	MigrationID       string `json:"migration_id"`
}

type contentHashCase struct {
	CipherSuite      uint16 `json:"cipher_suite"`
	MigrationContent string `json:"migration_content"`
	Hash             string `json:"migration_content_hash"`
}

func derivations(s *samples) (*derived, error) {
	response, err := s.response.Marshal()
	if err != nil {
		return nil, err
	}
	content, err := s.content.Marshal()
	if err != nil {
		return nil, err
	}
	later := s.preimage
	later.RoomID = "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM" // room version 12: no domain
	return &derived{
		GroupIDs:      []groupIDCase{groupID(s.preimage), groupID(later)},
		MigrationIDs:  []migrationIDCase{{hex.EncodeToString(response), s.response.ID().String()}},
		ContentHashes: contentHashes(content),
	}, nil
}

func groupID(p mimiport.GroupIDPreimage) groupIDCase {
	var b cryptobyte.Builder
	for _, part := range []string{portabilityPrefix + "GroupID", p.CreatingServer, p.RoomID, string(p.Nonce[:])} {
		wire.AddOpaque(&b, []byte(part))
	}
	hashed := b.BytesOrPanic()
	id := sha256.Sum256(hashed)
	return groupIDCase{
		p.CreatingServer, p.RoomID, hex.EncodeToString(p.Nonce[:]), hex.EncodeToString(hashed), hex.EncodeToString(id[:]),
	}
}

// contentHashes uses the hash functions of RFC 9420, section 17.1.
func contentHashes(content []byte) (cases []contentHashCase) {
	short, middle, long := sha256.Sum256(content), sha512.Sum384(content), sha512.Sum512(content)
	for _, of := range []struct {
		suites []uint16
		hash   []byte
	}{{[]uint16{1, 2, 3}, short[:]}, {[]uint16{4, 5, 6}, long[:]}, {[]uint16{7}, middle[:]}} {
		for _, suite := range of.suites {
			cases = append(cases, contentHashCase{suite, hex.EncodeToString(content), hex.EncodeToString(of.hash)})
		}
	}
	slices.SortFunc(cases, func(a, b contentHashCase) int { return int(a.CipherSuite) - int(b.CipherSuite) })
	return cases
}

// names is the content of the file of server names.
type names struct {
	Valid      []string `json:"valid"`       // DNS names
	IPLiterals []string `json:"ip_literals"` // valid server names, which a server may still refuse as IP literals
	Invalid    []string `json:"invalid"`
}

var serverNames = names{
	Valid: []string{
		"a", "localhost", "matrix.org", "Matrix.Org", "a-b.example", "a.example:1", "a.example:65535", "1.example",
		"example.",
	},
	IPLiterals: []string{
		"127.0.0.1", "127.0.0.1:8448", "[::1]", "[::1]:8448", "[2001:db8::7]", "127.1", "0x7f.1", "0x7f000001",
		"2130706433", "127.0.0.1.", "a.0x",
	},
	Invalid: []string{
		"", ":8448", "a b", "a_b.example", "a.example:", "a.example:65536", "a.example:-1", "a.example:x", "é.example",
		"::1", "[::1", "[a.example]", "a.example/x", "user@a.example", "a.example\u0000", "{\"a\":1}",
	},
}
