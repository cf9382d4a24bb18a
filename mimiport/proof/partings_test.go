package proof_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/hexjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
)

// TestPartingVectors: of two lineages that part, everybody prefers the one that the vector states.
func TestPartingVectors(t *testing.T) {
	data, err := os.ReadFile("../testdata/partings.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Name, Preferred string
			First, Second   hexjson.Bytes
			ClaimHash       hexjson.Bytes `json:"claim_hash"`
			Successors      []string
			At              int
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	for _, c := range file.Cases {
		a, b := lineage(t, c.First), lineage(t, c.Second)
		at, parts := proof.Parting(a, b)
		if !parts || at != c.At {
			t.Errorf("%s: they part at %d, %v", c.Name, at, parts)
			continue
		}
		word := &proof.Word{Claim: c.ClaimHash, Successors: c.Successors}
		first, second := word.Prefers(a.Steps[at:], b.Steps[at:]), word.Prefers(b.Steps[at:], a.Steps[at:])
		if first != (c.Preferred == "first") || second != (c.Preferred == "second") {
			t.Errorf("%s: first %v, second %v, want %s", c.Name, first, second, c.Preferred)
		}
	}
	if len(file.Cases) < 10 {
		t.Errorf("%d cases", len(file.Cases))
	}
}
