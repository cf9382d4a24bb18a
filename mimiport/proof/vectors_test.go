package proof_test

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/hexjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof/prooftest"
)

// chainVector is a case of mimiport/testdata/chains.json.
type chainVector struct {
	Name, Outcome string
	GroupID       hexjson.Bytes `json:"group_id"`
	Lineage       hexjson.Bytes
	Recorded      hexjson.Bytes
	Next, Hashed  bool
	Source        string
	Named         *proof.Place
	Own           []string
	Known         map[string][]hexjson.Bytes
	Live          map[string]hexjson.Bytes
	NotAsked      []string `json:"not_asked"`
	End           *proof.Place
	Epoch         uint64
	Stored        hexjson.Bytes
	Presented     []struct {
		Term   uint64
		Server string
		KeyID  string `json:"key_id"`
	}
}

func chainVectors(t testing.TB) []chainVector {
	t.Helper()
	data, err := os.ReadFile("../testdata/chains.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []chainVector }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	return file.Cases
}

func (v *chainVector) keys() *prooftest.Keys {
	k := &prooftest.Keys{Stored: map[string][][]byte{}, Published: map[string][]byte{}, Refused: v.NotAsked}
	for server, objects := range v.Known {
		for _, object := range objects {
			k.Stored[server] = append(k.Stored[server], object)
		}
	}
	for server, object := range v.Live {
		k.Published[server] = object
	}
	return k
}

func (v *chainVector) rules(t testing.TB) proof.Rules {
	t.Helper()
	rules := proof.Rules{
		Hashed: v.Hashed, Source: v.Source, Named: v.Named,
		Own: func(server string) bool { return slices.Contains(v.Own, server) },
	}
	if v.Recorded != nil {
		rules.Recorded = lineage(t, v.Recorded)
	}
	if v.Next {
		rules.UpTo = 1
		if rules.Recorded != nil {
			rules.UpTo += rules.Recorded.Term()
		}
	}
	return rules
}

func lineage(t testing.TB, encoded []byte) *mimiport.Lineage {
	t.Helper()
	l, err := mimiport.UnmarshalLineage(encoded)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestChainVectors replays whole chains. Each vector states whether the chain verifies, where it ends, which lineage to
// store, and which presented keys it rests on.
func TestChainVectors(t *testing.T) {
	vectors := chainVectors(t)
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			k := v.keys()
			chain, err := proof.Lineage(t.Context(), k, v.GroupID, lineage(t, v.Lineage), v.rules(t))
			if len(k.Asked()) > 8 {
				t.Errorf("%d servers were asked for their keys", len(k.Asked()))
			}
			switch v.Outcome {
			case "holds":
				if err != nil {
					t.Fatal(err)
				}
				v.expect(t, chain)
			case "refused":
				expectLineageError(t, err, "")
			case "unreachable":
				if mimiport.KindOf(err) != mimiport.KindPeer {
					t.Errorf("got %v, want that a server cannot be asked", err)
				}
			default:
				t.Errorf("outcome %q", v.Outcome)
			}
		})
	}
	t.Logf("%d chains", len(vectors))
}

func (v *chainVector) expect(t *testing.T, chain *proof.Chain) {
	t.Helper()
	if chain.Place != *v.End || chain.Epoch != v.Epoch {
		t.Errorf("it ends at %+v with epoch %d, want %+v with %d", chain.Place, chain.Epoch, *v.End, v.Epoch)
	}
	want := v.Stored
	if want == nil {
		want = v.Lineage
	}
	if !bytes.Equal(must(chain.Lineage.Marshal()), want) {
		t.Error("what is to be stored is something else")
	}
	if len(chain.Presented) != len(v.Presented) {
		t.Fatalf("presented keys: %+v, want %+v", chain.Presented, v.Presented)
	}
	for i, use := range chain.Presented {
		if w := v.Presented[i]; use.Term != w.Term || use.Server != w.Server || use.KeyID != w.KeyID || use.Reason == nil {
			t.Errorf("presented key %d: %+v, want %+v", i, use, w)
		}
	}
}

// FuzzLineage checks arbitrary lineages. A verified lineage ends where its last step leads, and the lineage to store
// verifies as well.
func FuzzLineage(f *testing.F) {
	vectors := chainVectors(f)
	for i := range vectors {
		f.Add([]byte(vectors[i].Lineage))
	}
	keys, id := vectors[0].keys(), vectors[0].GroupID
	f.Fuzz(func(t *testing.T, encoded []byte) {
		l, err := mimiport.UnmarshalLineage(encoded)
		if err != nil {
			return
		}
		chain, err := proof.Lineage(t.Context(), keys, id, l, proof.Rules{})
		if err != nil {
			return
		}
		again, err := proof.Lineage(t.Context(), keys, id, chain.Lineage, proof.Rules{})
		if err != nil || again.Place != chain.Place || chain.Term != l.Term() || len(chain.Presented) > 0 {
			t.Errorf("%+v, then %+v, %v", chain, again, err)
		}
	})
}
