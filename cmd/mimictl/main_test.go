package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
)

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		args   string
		input  string
		status int
	}{
		{"-h", "", 0},
		{"decode -", "00", 0},
		{"decode -", "nothing at all", 1},
		{"decode absent", "", 1},
		{"mls replay -", "{}", 1},
		{"mls replay -", "", 1},
		{"decode -", "0021" + strings.Repeat("00", 33), 2},
		{"", "", 2},
		{"decode", "", 2},
		{"decode -h", "", 0},
		{"decode -type Nothing -", "00", 2},
		{"fsck", "", 2},
		{"fsck -db file:absent.db", "", 1},
		{"db copy -from file:absent.db", "", 2},
		{"mls verify -", "", 1},
		{"mls replay -protocol mls11 -", "{}", 2},
	} {
		var out, stderr bytes.Buffer
		status := run(strings.Fields(c.args), stdio{strings.NewReader(c.input), &out, &stderr, testTime})
		if status != c.status || (status == 0) != (stderr.Len() == 0) {
			t.Errorf("mimictl %s: status %d, want %d: %s", c.args, status, c.status, &stderr)
		}
	}
}

// TestDecodeEncodings: decode reads a message in every text encoding.
func TestDecodeEncodings(t *testing.T) {
	message := append([]byte{0x3f}, bytes.Repeat([]byte("\uffff"), 21)...) // + and / in base64
	for _, text := range []string{
		hex.EncodeToString(message), strings.ToUpper(hex.EncodeToString(message)) + "\n",
		base64.StdEncoding.EncodeToString(message), base64.RawStdEncoding.EncodeToString(message) + "\r\n",
		base64.URLEncoding.EncodeToString(message) + "\n", base64.RawURLEncoding.EncodeToString(message),
		base64.StdEncoding.EncodeToString(message)[:40] + "\n  " + base64.StdEncoding.EncodeToString(message)[40:],
		string(message),
	} {
		d, err := decode([]byte(text), "", structures)
		if err != nil || d.Type != "MigrationCommitAAD" {
			t.Errorf("%q: %v, %v", text, d, err)
		}
	}
}

// TestDecodeVectors: decode recognises the vectors of every structure.
func TestDecodeVectors(t *testing.T) {
	paths, err := filepath.Glob("../../mimiport/testdata/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no vectors (%v)", err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var f struct {
			Struct string
			Cases  []struct{ Name, Outcome, Encoded string }
		}
		if err := json.Unmarshal(data, &f); err != nil {
			t.Fatal(err)
		}
		for _, c := range f.Cases {
			switch {
			case f.Struct == "": // the file has no structures
				continue
			case c.Outcome != "valid", f.Struct == "LeafIdentity": // looks like TargetMigrationComplete, never travels alone
				continue
			}
			if d, err := decode([]byte(c.Encoded), "", structures); err != nil || d.Type != f.Struct {
				t.Errorf("%s, %s: %v, %v", f.Struct, c.Name, d, err)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("0021" + strings.Repeat("00", 33)))
	f.Add([]byte("not one of them"))
	f.Fuzz(func(t *testing.T, input []byte) {
		d, err := decode(input, "", structuresOf(engines[mls.ProtocolMLS10]))
		if err == nil {
			err = writeText(io.Discard, d)
		}
		var f *failure
		if err != nil && !errors.As(err, &f) {
			t.Error(err)
		}
	})
}
