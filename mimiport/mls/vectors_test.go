package mls

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/hexjson"
	"github.com/matrix-org/dendrite/contrib/mimi/internal/needs"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// TestVectors runs the test vectors of the MLS working group, without the fields that need secrets.
func TestVectors(t *testing.T) {
	needs.Vectors(t) // skips the whole test when the vectors are missing
	t.Run("deserialization", testDeserialization)
	t.Run("tree-math", testTreeMath)
	t.Run("crypto-basics", testCryptoBasics)
	t.Run("transcript-hashes", testTranscriptHashes)
	t.Run("messages", testMessages)
	t.Run("tree-validation", testTreeValidation)
	t.Run("tree-operations", testTreeOperations)
	t.Run("treekem", testTreeKEM)
}

// loadVectors reads one file of vectors, which must not be empty.
func loadVectors[C any](t *testing.T, name string) []C {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(needs.Vectors(t), name))
	if err != nil {
		t.Fatal(err)
	}
	var cases []C
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	if len(cases) == 0 {
		t.Fatalf("%s has no cases", name)
	}
	return cases
}

func testDeserialization(t *testing.T) {
	cases := loadVectors[struct {
		Header hexjson.Bytes `json:"vlbytes_header"`
		Length uint32
	}](t, "deserialization.json")
	for i, c := range cases {
		s := cryptobyte.String(c.Header)
		var n uint32
		if !wire.ReadVarint(&s, &n) || !s.Empty() || n != c.Length {
			t.Errorf("case %d: %x is %d, want %d", i, c.Header, n, c.Length)
		}
	}
	t.Logf("deserialization.json: %d cases", len(cases))
}

func testTreeMath(t *testing.T) {
	cases := loadVectors[struct {
		Leaves  uint32 `json:"n_leaves"`
		Nodes   uint32 `json:"n_nodes"`
		Root    uint32 `json:"root"`
		Left    []*uint32
		Right   []*uint32
		Parent  []*uint32
		Sibling []*uint32
	}](t, "tree-math.json")
	same := func(got uint32, want *uint32) bool { return want != nil && got == *want }
	for _, c := range cases {
		height := treeHeight(int(c.Nodes))
		top := span{height: height}
		if 1<<height != c.Leaves || 2<<height-1 != c.Nodes || top.index() != c.Root {
			t.Errorf("%d leaves: height %d, root %d", c.Leaves, height, top.index())
		}
		if c.Parent[c.Root] != nil || c.Sibling[c.Root] != nil {
			t.Errorf("%d leaves: the root has a parent", c.Leaves)
		}
		seen := 0
		var walk func(span)
		walk = func(at span) {
			seen++
			i := at.index()
			if at.height == 0 {
				if c.Left[i] != nil || c.Right[i] != nil {
					t.Errorf("%d leaves: leaf %d has children", c.Leaves, i)
				}
				return
			}
			l, r := at.left().index(), at.right().index()
			if !same(l, c.Left[i]) || !same(r, c.Right[i]) || !same(i, c.Parent[l]) || !same(i, c.Parent[r]) ||
				!same(r, c.Sibling[l]) || !same(l, c.Sibling[r]) {
				t.Errorf("%d leaves: wrong family of node %d", c.Leaves, i)
			}
			walk(at.left())
			walk(at.right())
		}
		walk(top)
		if seen != len(c.Left) {
			t.Errorf("%d leaves: %d nodes, want %d", c.Leaves, seen, len(c.Left))
		}
	}
	t.Logf("tree-math.json: %d cases", len(cases))
}

// index is the place's number in the array form of the tree (RFC 9420, appendix C).
func (s span) index() uint32 { return 2*s.first + 1<<s.height - 1 }

func testCryptoBasics(t *testing.T) {
	cases := loadVectors[struct {
		CipherSuite uint16 `json:"cipher_suite"`
		RefHash     struct {
			Label      string
			Value, Out hexjson.Bytes
		} `json:"ref_hash"`
		SignWithLabel struct {
			Label                   string
			Pub, Content, Signature hexjson.Bytes
		} `json:"sign_with_label"`
	}](t, "crypto-basics.json")
	for _, c := range cases {
		suite := rfc9420.SuiteByID(c.CipherSuite)
		if got := suite.Ref(c.RefHash.Label, c.RefHash.Value); !bytes.Equal(got, c.RefHash.Out) {
			t.Errorf("suite %d: RefHash", c.CipherSuite)
		}
		s := c.SignWithLabel
		content := rfc9420.SignContent(s.Label, s.Content)
		if !suite.Verify(s.Pub, content, s.Signature) {
			t.Errorf("suite %d: the signature does not verify", c.CipherSuite)
		}
		content[len(content)-1] ^= 1
		if suite.Verify(s.Pub, content, s.Signature) {
			t.Errorf("suite %d: the signature verifies over another content", c.CipherSuite)
		}
	}
	t.Logf("crypto-basics.json: %d cases; of the fields, expand_with_label, derive_secret, derive_tree_secret and "+
		"encrypt_with_label need secrets: skipped", len(cases))
}

func testTranscriptHashes(t *testing.T) {
	cases := loadVectors[struct {
		CipherSuite          uint16        `json:"cipher_suite"`
		AuthenticatedContent hexjson.Bytes `json:"authenticated_content"`
		InterimBefore        hexjson.Bytes `json:"interim_transcript_hash_before"`
		ConfirmedAfter       hexjson.Bytes `json:"confirmed_transcript_hash_after"`
		InterimAfter         hexjson.Bytes `json:"interim_transcript_hash_after"`
	}](t, "transcript-hashes.json")
	for i, c := range cases {
		var content rfc9420.AuthenticatedContent
		if !rfc9420.Unmarshal(c.AuthenticatedContent, &content) {
			t.Errorf("case %d does not decode", i)
			continue
		}
		suite := rfc9420.SuiteByID(c.CipherSuite)
		confirmed := suite.Sum(c.InterimBefore, content.TranscriptInput())
		if !bytes.Equal(confirmed, c.ConfirmedAfter) {
			t.Errorf("case %d: confirmed transcript hash", i)
		}
		if !bytes.Equal(interimHash(suite, confirmed, content.ConfirmationTag), c.InterimAfter) {
			t.Errorf("case %d: interim transcript hash", i)
		}
	}
	t.Logf("transcript-hashes.json: %d cases; of the fields, confirmation_key is a secret: skipped", len(cases))
}

func testMessages(t *testing.T) {
	cases := loadVectors[map[string]hexjson.Bytes](t, "messages.json")
	message := func() rfc9420.Value { return new(rfc9420.Message) }
	kinds := map[string]func() rfc9420.Value{
		"mls_welcome":                message,
		"mls_group_info":             message,
		"mls_key_package":            message,
		"public_message_application": message,
		"public_message_proposal":    message,
		"public_message_commit":      message,
		"private_message":            message,
		"commit":                     func() rfc9420.Value { return new(rfc9420.Commit) },
	}
	proposals := map[string]rfc9420.ProposalType{
		"add_proposal":                      ProposalAdd,
		"update_proposal":                   ProposalUpdate,
		"remove_proposal":                   ProposalRemove,
		"pre_shared_key_proposal":           ProposalPSK,
		"re_init_proposal":                  ProposalReInit,
		"external_init_proposal":            ProposalExternalInit,
		"group_context_extensions_proposal": ProposalGroupContextExtensions,
	}
	count := make(map[string]int)
	for i, c := range cases {
		for field, data := range c {
			count[field]++
			if kind, ok := kinds[field]; ok {
				checkRoundTrip(t, i, field, data, kind())
			} else if typ, ok := proposals[field]; ok {
				data = slices.Concat([]byte{byte(typ >> 8), byte(typ)}, data)
				checkRoundTrip(t, i, field, data, new(rfc9420.Proposal))
			} else if field == "ratchet_tree" {
				checkTreeRoundTrip(t, i, data)
			} else if field != "group_secrets" {
				t.Errorf("case %d: unknown field %s", i, field)
			}
		}
	}
	t.Logf("messages.json: %d cases; of the fields, group_secrets is a secret: skipped; counts %v", len(cases), count)
}

func checkRoundTrip(t *testing.T, i int, field string, data []byte, v rfc9420.Value) {
	t.Helper()
	if !rfc9420.Unmarshal(data, v) {
		t.Errorf("case %d: %s does not decode", i, field)
		return
	}
	again, err := rfc9420.Marshal(v)
	if err != nil || !bytes.Equal(again, data) {
		t.Errorf("case %d: %s does not encode identically: %v", i, field, err)
	}
}

func checkTreeRoundTrip(t *testing.T, i int, data []byte) {
	t.Helper()
	tree, err := openTree(rfc9420.SuiteByID(1), data)
	if err != nil {
		t.Errorf("case %d: ratchet_tree: %v", i, err)
		return
	}
	if !bytes.Equal(tree.encode(), data) {
		t.Errorf("case %d: ratchet_tree does not encode identically", i)
	}
}

// openTree decodes a tree without checking it.
func openTree(suite *rfc9420.Suite, data []byte) (tree, error) {
	contents, nodes, err := checker{}.scanTree(data, 1<<16)
	if err != nil {
		return tree{}, err
	}
	return newEdit(suite, nil).build(contents, nodes), nil
}

func testTreeValidation(t *testing.T) {
	cases := loadVectors[struct {
		CipherSuite uint16 `json:"cipher_suite"`
		Tree        hexjson.Bytes
		GroupID     hexjson.Bytes   `json:"group_id"`
		TreeHashes  []hexjson.Bytes `json:"tree_hashes"`
		Resolutions [][]uint32      `json:"resolutions"`
	}](t, "tree-validation.json")
	for i, c := range cases {
		suite := rfc9420.SuiteByID(c.CipherSuite)
		tree, err := openTree(suite, c.Tree)
		if err != nil {
			t.Errorf("case %d: %v", i, err)
			continue
		}
		h := newHasher(suite)
		h.treeHash(tree.root, tree.span())
		seen := 0
		var walk func(*node, span)
		walk = func(n *node, at span) {
			seen++
			var own digest
			if got := h.originalHash(&own, n, at, nil); !bytes.Equal(got, c.TreeHashes[at.index()]) {
				t.Errorf("case %d: tree hash of node %d", i, at.index())
			}
			if got := resolutionOf(n, at); !slices.Equal(got, c.Resolutions[at.index()]) || int(n.resolution) != len(got) {
				t.Errorf("case %d: resolution of node %d is %v", i, at.index(), got)
			}
			if n.left != nil {
				walk(n.left, at.left())
				walk(n.right, at.right())
			}
		}
		walk(tree.root, tree.span())
		err = checker{}.checkLeaves(suite, tree, c.GroupID, func() error {
			_, err := checker{}.keysOf(suite, tree)
			if err != nil {
				return err
			}
			return checker{}.checkTree(h, tree)
		})
		if err != nil {
			t.Errorf("case %d: %v", i, err)
		}
		if !bytes.Equal(tree.encode(), c.Tree) {
			t.Errorf("case %d does not encode identically", i)
		}
	}
	t.Logf("tree-validation.json: %d cases", len(cases))
}

// resolutionOf computes the resolution of a node by its definition (RFC 9420, section 4.1.1).
func resolutionOf(n *node, at span) (out []uint32) {
	switch {
	case !n.isBlank() && at.height == 0:
		return []uint32{at.index()}
	case !n.isBlank():
		out = []uint32{at.index()}
		for unmerged, i := decodeParent(n.raw).UnmergedLeaves, 0; i < unmerged.Len(); i++ {
			out = append(out, 2*unmerged.At(i))
		}
		return out
	case n.left == nil:
		return nil
	}
	return append(resolutionOf(n.left, at.left()), resolutionOf(n.right, at.right())...)
}

func testTreeOperations(t *testing.T) {
	cases := loadVectors[struct {
		CipherSuite    uint16 `json:"cipher_suite"`
		Proposal       hexjson.Bytes
		ProposalSender uint32        `json:"proposal_sender"`
		TreeBefore     hexjson.Bytes `json:"tree_before"`
		TreeAfter      hexjson.Bytes `json:"tree_after"`
		TreeHashBefore hexjson.Bytes `json:"tree_hash_before"`
		TreeHashAfter  hexjson.Bytes `json:"tree_hash_after"`
	}](t, "tree-operations.json")
	for i, c := range cases {
		suite := rfc9420.SuiteByID(c.CipherSuite)
		before, err := openTree(suite, c.TreeBefore)
		if err != nil {
			t.Errorf("case %d: %v", i, err)
			continue
		}
		e := newEdit(suite, nil)
		if !bytes.Equal(e.treeHash(before.root, before.span()), c.TreeHashBefore) {
			t.Errorf("case %d: tree hash before", i)
		}
		var p rfc9420.Proposal
		if !rfc9420.Unmarshal(c.Proposal, &p) {
			t.Errorf("case %d: the proposal does not decode", i)
			continue
		}
		after := before
		switch p.Type {
		case ProposalAdd:
			for leaf := range before.blanks() {
				after = e.add(before, []leafChange{{leaf, p.Add.Leaf.Raw, e.supportOf(&p.Add.Leaf)}})
				break
			}
		case ProposalUpdate:
			after = e.set(before, []leafChange{{c.ProposalSender, p.Update.Raw, e.supportOf(p.Update)}}, func(*node) {})
		case ProposalRemove:
			after = truncate(e.set(before, []leafChange{{leaf: p.Remove}}, func(*node) {}))
		}
		if !bytes.Equal(after.encode(), c.TreeAfter) {
			t.Errorf("case %d: tree after", i)
		}
		if !bytes.Equal(e.treeHash(after.root, after.span()), c.TreeHashAfter) {
			t.Errorf("case %d: tree hash after", i)
		}
		if !bytes.Equal(before.encode(), c.TreeBefore) {
			t.Errorf("case %d: the tree before has changed", i)
		}
	}
	t.Logf("tree-operations.json: %d cases", len(cases))
}

func testTreeKEM(t *testing.T) {
	cases := loadVectors[struct {
		CipherSuite uint16        `json:"cipher_suite"`
		GroupID     hexjson.Bytes `json:"group_id"`
		Tree        hexjson.Bytes `json:"ratchet_tree"`
		UpdatePaths []struct {
			Sender        uint32
			UpdatePath    hexjson.Bytes `json:"update_path"`
			TreeHashAfter hexjson.Bytes `json:"tree_hash_after"`
		} `json:"update_paths"`
	}](t, "treekem.json")
	paths := 0
	for i, c := range cases {
		suite := rfc9420.SuiteByID(c.CipherSuite)
		before, err := openTree(suite, c.Tree)
		if err != nil {
			t.Errorf("case %d: %v", i, err)
			continue
		}
		e := newEdit(suite, nil)
		e.treeHash(before.root, before.span())
		g := &group{suite: suite, tree: before, engine: &engine{limits: DefaultLimits()}}
		g.context.GroupID = c.GroupID
		if g.keys, err = g.keysOf(suite, before); err != nil {
			t.Errorf("case %d: %v", i, err)
		}
		for _, u := range c.UpdatePaths {
			paths++
			var path rfc9420.UpdatePath
			if !rfc9420.Unmarshal(u.UpdatePath, &path) {
				t.Errorf("case %d: the path of %d does not decode", i, u.Sender)
				continue
			}
			tr := &transition{
				edit: e, ledger: g.newLedger(g.keys), g: g, tree: before, committer: u.Sender, commit: &rfc9420.Commit{Path: &path},
			}
			if err := tr.applyPath(); err != nil {
				t.Errorf("case %d: the path of %d: %v", i, u.Sender, err)
				continue
			}
			if !bytes.Equal(e.treeHash(tr.tree.root, tr.tree.span()), u.TreeHashAfter) {
				t.Errorf("case %d: tree hash after the path of %d", i, u.Sender)
			}
		}
	}
	t.Logf("treekem.json: %d cases, %d paths; of the fields, leaves_private, path_secrets and commit_secret are secrets: "+
		"skipped",
		len(cases), paths)
}
