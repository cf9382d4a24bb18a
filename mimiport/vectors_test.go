package mimiport_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/hexjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

type structure interface{ Marshal() ([]byte, error) }

// codecs has a decoder for every structure with test vectors.
var codecs = map[string]func([]byte) (structure, error){
	"MigrationRequest":        codec(mimiport.UnmarshalMigrationRequest),
	"MigrationResponse":       codec(mimiport.UnmarshalMigrationResponse),
	"MigrationInit":           codec(mimiport.UnmarshalMigrationInit),
	"MigrationCommitAAD":      codec(mimiport.UnmarshalMigrationCommitAAD),
	"MigrationContent":        codec(mimiport.UnmarshalMigrationContent),
	"TargetMigrationComplete": codec(mimiport.UnmarshalTargetMigrationComplete),
	"MigrationVote":           codec(mimiport.UnmarshalMigrationVote),
	"MigrationConfirmation":   codec(mimiport.UnmarshalMigrationConfirmation),
	"MigrationAbort":          codec(mimiport.UnmarshalMigrationAbort),
	"LeafIdentity":            codec(mimiport.UnmarshalLeafIdentity),
	"GroupState":              codec(mimiport.UnmarshalGroupState),
	"Lineage":                 codec(mimiport.UnmarshalLineage),
	"LineageStep":             codec(mimiport.UnmarshalLineageStep),
	"LineageClaim":            codec(mimiport.UnmarshalLineageClaim),
	"CommitReceipt":           codec(mimiport.UnmarshalCommitReceipt),
	"ExternalSenderOffer":     codec(mimiport.UnmarshalExternalSenderOffer),
	"MoveRequest":             codec(mimiport.UnmarshalMoveRequest),
	"DirectRequest":           codec(mimiport.UnmarshalDirectRequest),
}

func codec[M structure](unmarshal func([]byte) (M, error)) func([]byte) (structure, error) {
	return func(data []byte) (structure, error) { return unmarshal(data) }
}

type vectorFile struct {
	Struct string       `json:"struct"`
	Cases  []vectorCase `json:"cases"`
}

type vectorCase struct {
	Name          string          `json:"name"`
	Outcome       string          `json:"outcome"`
	Encoded       hexjson.Bytes   `json:"encoded"`
	Fields        json.RawMessage `json:"fields"`
	PublicKey     hexjson.Bytes   `json:"public_key"`
	SignedContent hexjson.Bytes   `json:"signed_content"`
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// vectorFiles reads the files of all structures. It returns them by the name of the structure.
func vectorFiles(t testing.TB) map[string]vectorFile {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.json")
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]vectorFile)
	for _, path := range paths {
		var f vectorFile
		readJSON(t, path, &f)
		if f.Struct != "" {
			files[f.Struct] = f
		}
	}
	if len(files) != len(codecs) {
		t.Fatalf("vectors of %d structures, want %d", len(files), len(codecs))
	}
	return files
}

func TestVectors(t *testing.T) {
	for name, f := range vectorFiles(t) {
		for _, c := range f.Cases {
			t.Run(name+"/"+c.Name, func(t *testing.T) { replay(t, codecs[name], &c) })
		}
		t.Logf("%s: %d cases", name, len(f.Cases))
	}
}

// TestVectorsBounds: a list of 65,535 elements decodes and encodes to the same bytes, one more element is refused.
func TestVectorsBounds(t *testing.T) {
	var f struct {
		Cases []struct {
			Name, Struct, Outcome string
			Parts                 []struct {
				Bytes     hexjson.Bytes
				Times     int
				CounterAt *int `json:"counter_at"`
			}
		}
	}
	readJSON(t, "testdata/bounds.json", &f)
	if len(f.Cases) != 10 {
		t.Errorf("%d cases", len(f.Cases))
	}
	for _, c := range f.Cases {
		var encoded []byte
		for _, p := range c.Parts {
			for n := range p.Times {
				if encoded = append(encoded, p.Bytes...); p.CounterAt != nil {
					at := len(encoded) - len(p.Bytes) + *p.CounterAt
					binary.BigEndian.PutUint64(encoded[at:], uint64(n+1))
				}
			}
		}
		m, err := codecs[c.Struct](encoded)
		switch c.Outcome {
		case "valid":
			reencodes(t, m, err, &vectorCase{Encoded: encoded})
		case "too-many":
			wantKind(t, err, mimiport.KindBadMessage)
		default:
			t.Errorf("outcome %q", c.Outcome)
		}
	}
}

func replay(t *testing.T, decode func([]byte) (structure, error), c *vectorCase) {
	m, err := decode(c.Encoded)
	switch c.Outcome {
	case "valid":
		reencodes(t, m, err, c)
		for n := range c.Encoded {
			if _, err := decode(c.Encoded[:n]); mimiport.KindOf(err) != mimiport.KindBadMessage {
				t.Fatalf("the first %d bytes decode: %v", n, err)
			}
		}
		checkFields(t, m, c)
		if c.PublicKey != nil {
			if err := verify(m, c); err != nil {
				t.Error(err)
			}
			signature := c.Encoded[len(c.Encoded)-ed25519.SignatureSize:]
			if !ed25519.Verify(ed25519.PublicKey(c.PublicKey), c.SignedContent, signature) {
				t.Error("the signature is not over signed_content")
			}
		}
		if r, ok := m.(*mimiport.MigrationRequest); ok && r.Validate() != nil {
			t.Error(r.Validate())
		}
	case "invalid-request":
		reencodes(t, m, err, c)
		wantKind(t, m.(*mimiport.MigrationRequest).Validate(), mimiport.KindBadMessage)
	case "bad-signature", "wrong-signer", "wrong-label":
		reencodes(t, m, err, c)
		wantKind(t, verify(m, c), mimiport.KindBadSignature)
	case "unsupported":
		wantKind(t, err, mimiport.KindUnsupported)
	default:
		wantKind(t, err, mimiport.KindBadMessage)
	}
}

func wantKind(t *testing.T, err error, want mimiport.Kind) {
	t.Helper()
	if err == nil || mimiport.KindOf(err) != want {
		t.Errorf("error %v of kind %d, want kind %d", err, mimiport.KindOf(err), want)
	}
}

func reencodes(t *testing.T, m structure, err error, c *vectorCase) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Marshal()
	if err != nil || !bytes.Equal(got, c.Encoded) {
		t.Errorf("encodes to %x, %v", got, err)
	}
}

func checkFields(t *testing.T, m structure, c *vectorCase) {
	t.Helper()
	got, err := hexjson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := json.Compact(&want, c.Fields); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("fields %s, %v", got, err)
	}
}

// verify verifies a signature as the receiver of the structure does.
func verify(m structure, c *vectorCase) error {
	switch m := m.(type) {
	case mimiport.Signed:
		return mimiport.Verify(m, ed25519.PublicKey(c.PublicKey))
	case *mimiport.MigrationInit:
		return verifyInit(m, ed25519.PublicKey(c.PublicKey))
	case *mimiport.DirectRequest:
		return verifyDirect(m, "ed25519", c.PublicKey)
	}
	return nil
}

// verifyInit is VerifyWithLabel of RFC 9420, section 5.1.2, for cipher suite 1.
func verifyInit(m *mimiport.MigrationInit, key ed25519.PublicKey) error {
	tbs, err := m.TBS()
	if err != nil {
		return err
	}
	var b cryptobyte.Builder
	wire.AddOpaque(&b, []byte("MLS 1.0 "+mimiport.MigrationInitLabel))
	wire.AddOpaque(&b, tbs)
	if !ed25519.Verify(key, b.BytesOrPanic(), m.Signature) {
		return mimiport.Errorf("verify MigrationInit", mimiport.KindBadSignature, "the signature does not verify")
	}
	return nil
}

func verifyDirect(m *mimiport.DirectRequest, scheme string, key []byte) error {
	content, err := m.SignContent()
	if err != nil {
		return err
	}
	return mls.VerifySignature(scheme, key, content, m.Signature)
}

// TestVectorsDirectHeaders: a service accepts each valid request, with any signature scheme. It refuses a request that
// was signed for something else, and a header of another form.
func TestVectorsDirectHeaders(t *testing.T) {
	var f struct {
		Cases []struct {
			Name, Outcome, Authorization string
			Service, Method, URI, Body   string
			PublicKey                    hexjson.Bytes `json:"public_key"`
		}
	}
	readJSON(t, "testdata/direct_headers.json", &f)
	outcomes := make(map[string]int)
	for _, c := range f.Cases {
		outcomes[c.Outcome]++
		r, key, err := api.ParseDirectHeader(http.Header{"Authorization": {c.Authorization}})
		if c.Outcome == "malformed" {
			wantKind(t, err, mimiport.KindBadMessage)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		if got := api.DirectHeader(r, key.Scheme); got != c.Authorization {
			t.Errorf("%s: written as %s", c.Name, got)
		}
		r.Service, r.Method, r.URI = c.Service, c.Method, c.URI
		if err = verifyDirect(r, key.Scheme, c.PublicKey); err == nil && sha256.Sum256([]byte(c.Body)) != r.BodyHash {
			err = mimiport.Errorf("read body", mimiport.KindBadSignature, "another body")
		}
		if c.Outcome == "valid" && err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		if c.Outcome != "valid" {
			wantKind(t, err, mimiport.KindBadSignature)
		}
	}
	if outcomes["valid"] < 5 || outcomes["bad-signature"] == 0 || outcomes["malformed"] == 0 {
		t.Error(outcomes)
	}
}

func TestVectorsDerivations(t *testing.T) {
	var f struct {
		GroupIDs []struct {
			CreatingServer string        `json:"creating_server"`
			RoomID         string        `json:"room_id"`
			Nonce          hexjson.Bytes `json:"nonce"`
			Hashed         hexjson.Bytes `json:"hashed"`
			GroupID        hexjson.Bytes `json:"group_id"`
		} `json:"group_ids"`
		MigrationIDs []struct {
			Response hexjson.Bytes `json:"migration_response"`
			ID       string        `json:"migration_id"`
		} `json:"migration_ids"`
	}
	readJSON(t, "testdata/derivations.json", &f)
	if len(f.GroupIDs) == 0 || len(f.MigrationIDs) == 0 {
		t.Fatal("no cases")
	}
	for _, c := range f.GroupIDs {
		p := mimiport.GroupIDPreimage{CreatingServer: c.CreatingServer, RoomID: c.RoomID, Nonce: mimiport.Nonce(c.Nonce)}
		if sum := sha256.Sum256(c.Hashed); !bytes.Equal(p.GroupID(), c.GroupID) || !bytes.Equal(sum[:], c.GroupID) {
			t.Errorf("group id %x, want %x", p.GroupID(), []byte(c.GroupID))
		}
	}
	for _, c := range f.MigrationIDs {
		m, err := mimiport.UnmarshalMigrationResponse(c.Response)
		if err != nil {
			t.Fatal(err)
		}
		id, err := mimiport.ParseMigrationID(c.ID)
		if err != nil || m.ID() != id || id.String() != c.ID {
			t.Errorf("migration id %s, want %s (%v)", m.ID(), c.ID, err)
		}
	}
}

// TestVectorsContentHashes: "`migration_content_hash` = the suite's hash over the exact MigrationContent bytes"
// (profile, section 2).
func TestVectorsContentHashes(t *testing.T) {
	var f struct {
		Cases []struct {
			CipherSuite uint16        `json:"cipher_suite"`
			Content     hexjson.Bytes `json:"migration_content"`
			Hash        hexjson.Bytes `json:"migration_content_hash"`
		} `json:"migration_content_hashes"`
	}
	readJSON(t, "testdata/derivations.json", &f)
	if len(f.Cases) != 7 {
		t.Fatalf("%d cases", len(f.Cases))
	}
	for _, c := range f.Cases {
		made := mlstest.New(mlstest.Options{
			CipherSuite: c.CipherSuite, GroupID: []byte{1}, Members: [][]byte{[]byte("a member")},
		})
		g, err := mls.RFC9420(mls.DefaultLimits()).Open(made.GroupInfo(), made.RatchetTree())
		if err != nil {
			t.Fatal(err)
		}
		if got := g.Hash(c.Content); !bytes.Equal(got, c.Hash) {
			t.Errorf("cipher suite %d: %x, want %x", c.CipherSuite, got, []byte(c.Hash))
		}
	}
}

func TestVectorsServerNames(t *testing.T) {
	var f struct {
		Valid      []string `json:"valid"`
		IPLiterals []string `json:"ip_literals"`
		Invalid    []string `json:"invalid"`
	}
	readJSON(t, "testdata/server_names.json", &f)
	if len(f.Valid) == 0 || len(f.IPLiterals) == 0 || len(f.Invalid) == 0 {
		t.Fatal("no cases")
	}
	for _, name := range append(f.Valid, f.IPLiterals...) {
		if err := mimiport.ValidateServerName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range f.Valid {
		if mimiport.IsIPLiteral(name) {
			t.Errorf("%q passes for an IP literal", name)
		}
	}
	for _, name := range f.IPLiterals {
		if !mimiport.IsIPLiteral(name) {
			t.Errorf("%q does not pass for an IP literal", name)
		}
	}
	for _, name := range append(f.Invalid, string(bytes.Repeat([]byte{'a'}, 256))) {
		wantKind(t, mimiport.ValidateServerName(name), mimiport.KindBadMessage)
	}
}

// FuzzServerName: every valid server name can be part of a URL and of a user id.
func FuzzServerName(f *testing.F) {
	for _, name := range []string{"a.example:8448", "[::1]", "127.1", "0x7f.1", "a.example/x", "a@b", "\x00", "."} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		_ = mimiport.IsIPLiteral(name)
		if mimiport.ValidateServerName(name) != nil {
			return
		}
		if len(name) > 255 || strings.ContainsAny(name, "/@?#% \t\r\n\x00\\\"{") {
			t.Errorf("%q passes for a server name", name)
		}
	})
}
