package mls

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// TestProposalBytes decodes the proposals of other documents from their bytes. A group accepts and commits each.
func TestProposalBytes(t *testing.T) {
	s := newScene(appDataOf(1))
	for encoding, want := range map[string]mlstest.Proposal{
		"0008 0001 01 03616263": *s.SetAppData(1, []byte("abc")),
		"0008 0001 02":          *s.RemoveAppData(1),
		"0009 8001 03616263":    *s.AppEphemeral(0x8001, []byte("abc")),
		"0009 0000 00":          *s.AppEphemeral(0, []byte{}),
		"000a":                  *s.SelfRemove(),
		"f002":                  {Type: 0xf002},
		"f003":                  {Type: 0xf003},
		"f004 00010203":         {Type: 0xf004, Number: 0x010203},
		"2a2a 03616263":         {Type: grease, Custom: []byte("abc")},
	} {
		raw, err := hex.DecodeString(strings.ReplaceAll(encoding, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		var got mlstest.Proposal
		if !rfc9420.Unmarshal(raw, &got) {
			t.Errorf("%s does not decode", encoding)
			continue
		}
		again, err := rfc9420.Marshal(&want)
		if err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%s: the proposal encodes to %x, %v", encoding, again, err)
		}
		checkSame(t, raw, &got)
		message := s.Propose(1, &got)
		commit(t, propose(t, open(t, s.Group), message), s.Commit(mlstest.CommitOptions{References: [][]byte{message}}))
	}
	for _, encoding := range []string{
		"0008000100", "0008000103", "00080001", "0009", "000900000261", "000a00", "f00200", "f004000102",
	} {
		raw, err := hex.DecodeString(encoding)
		if err != nil {
			t.Fatal(err)
		}
		if rfc9420.Unmarshal(raw, new(mlstest.Proposal)) {
			t.Errorf("%s decodes", encoding)
		}
	}
}

// opaque is a proposal whose contents are not a vector.
type opaque struct{ contents []byte }

// message makes a message with a proposal of type 0xf0f2 that has the contents. The proposal is alone or in a Commit.
func (o opaque) message(t *testing.T, s scene, inCommit bool) []byte {
	t.Helper()
	custom := &mlstest.Proposal{Type: unknownProposal, Custom: []byte("replaced")}
	message := s.Propose(0, custom)
	if inCommit {
		message = s.Commit(mlstest.CommitOptions{Proposals: []*mlstest.Proposal{custom}}).Message
	}
	var b cryptobyte.Builder
	custom.Encode(&b)
	vector := b.BytesOrPanic()[2:]
	if bytes.Count(message, vector) != 1 || len(o.contents) != len(vector) {
		t.Fatal("the contents cannot be replaced")
	}
	return bytes.Replace(message, vector, o.contents, 1)
}

// TestUnknownProposal: when the contents of an unknown proposal are not a vector, the error names the proposal's type.
func TestUnknownProposal(t *testing.T) {
	s := newScene(nil)
	long := opaque{append([]byte{0xbf}, bytes.Repeat([]byte{0xff}, 8)...)}
	for _, inCommit := range []bool{false, true} {
		message := long.message(t, s, inCommit)
		_, err := RFC9420(DefaultLimits()).Parse(message)
		if mimiport.KindOf(err) != mimiport.KindUnsupported || !strings.Contains(err.Error(), "0xf0f2") {
			t.Errorf("in a Commit %v: %v", inCommit, err)
		}
	}
}

// TestSelfRemove: a member can leave by a SelfRemove, which another member's Commit or an external Commit covers.
func TestSelfRemove(t *testing.T) {
	s := newScene(nil)
	for _, typ := range []ProposalType{ProposalSelfRemove, rfc9420.ProposalPrivateSelfRemove} {
		message := s.Propose(2, &mlstest.Proposal{Type: typ})
		next, p, err := open(t, s.Group).Propose(message)
		if err != nil {
			t.Fatal(err)
		}
		if p.Remove == nil || p.Remove.Leaf != 2 || p.Type != typ {
			t.Errorf("proposal %+v", p)
		}
		resync := []*mlstest.Proposal{s.Remove(4)}
		for name, o := range map[string]mlstest.CommitOptions{
			"a member's Commit": {References: [][]byte{message}},
			"a joiner's Commit": {References: [][]byte{message}, Joiner: s.client("joiner")},
			"a resync":          {References: [][]byte{message}, Joiner: s.again(4), Proposals: resync},
		} {
			_, e := commit(t, next, s.Commit(o))
			if len(e.Removed) != 1+len(o.Proposals) || e.Removed[0].Leaf != 2 || !e.HasPath {
				t.Errorf("type %d, %s: removed %v", typ, name, e.Removed)
			}
		}
		for name, c := range map[string]struct {
			o    mlstest.CommitOptions
			rule *rule
		}{
			"its sender commits": {mlstest.CommitOptions{Sender: 2, References: [][]byte{message}}, ruleSelfRemove},
			"without a path": {mlstest.CommitOptions{
				References: [][]byte{message}, Edit: mlstest.Edit{NoPath: true},
			}, rulePathRequired},
			"beside a Remove": {mlstest.CommitOptions{
				References: [][]byte{message}, Proposals: []*mlstest.Proposal{s.Remove(2)},
			}, ruleRemoveUnique},
			"beside its sender's resync": {mlstest.CommitOptions{
				References: [][]byte{message}, Joiner: s.again(2), Proposals: []*mlstest.Proposal{s.Remove(2)},
			}, ruleRemoveUnique},
		} {
			c.o.Edit.Owner = s.again(c.o.Sender).As(s.Client(c.o.Sender)) // the sender's leaf may be gone
			if c.o.Joiner != nil {
				c.o.Edit.Owner = nil
			}
			bad := s.Commit(c.o)
			if _, _, err := next.Commit(bad.Message, bad.GroupInfo); ruleOf(err) != c.rule.name {
				t.Errorf("type %d, %s: %v", typ, name, err)
			}
		}
		_, _, err = next.Propose(s.ProposeExternal(0, s.ds, &mlstest.Proposal{Type: typ}))
		if ruleOf(err) != ruleSenderType.name {
			t.Errorf("by an external sender: %v", err)
		}
	}
}

// TestAppData: a group follows its app_data_dictionary through AppDataUpdates by reference, by value and in an external
// Commit. The result opens again. Follow fails without the GroupInfo.
func TestAppData(t *testing.T) {
	m := newScene(nil)
	g := open(t, m.Group)
	step := func(o mlstest.CommitOptions) {
		t.Helper()
		for _, message := range o.References {
			g = propose(t, g, message)
		}
		c := m.Commit(o)
		if _, _, err := g.(Follower).Follow(c.Message); mimiport.KindOf(err) != mimiport.KindUnsupported {
			t.Errorf("followed without a GroupInfo: %v", err)
		}
		g, _ = commit(t, g, c)
		m.Group = c.Next
		if opened := open(t, m.Group); !bytes.Equal(opened.(*group).encodedContext, g.(*group).encodedContext) {
			t.Error("the group differs after it is opened again")
		}
	}
	step(mlstest.CommitOptions{References: [][]byte{
		m.Propose(1, m.SetAppData(7, []byte("a"))), m.Propose(2, m.SetAppData(3, []byte("b"))),
	}})
	step(mlstest.CommitOptions{Proposals: []*mlstest.Proposal{
		m.SetAppData(7, []byte("c")), m.SetAppData(7, []byte("d")), m.RemoveAppData(3),
	}})
	step(mlstest.CommitOptions{Joiner: m.client("joiner"), Proposals: []*mlstest.Proposal{
		m.SetAppData(9, nil), m.AppEphemeral(9, nil),
	}})
	data, _ := appData(g.(*group).context.Extensions)
	if seven, _ := data.Find(7); len(data) != 2 || string(seven) != "d" {
		t.Errorf("the data is %v", data)
	}
}

// TestTreeInCommit: a group accepts a Commit whose GroupInfo holds the new tree, and keeps the GroupInfo as it was
// sent.
func TestTreeInCommit(t *testing.T) {
	m := mlstest.New(mlstest.Options{
		Seed: 1, GroupID: []byte("group"), Members: identities(5), Populated: true, Tree: true,
	})
	g := open(t, m)
	c := m.Commit(mlstest.CommitOptions{Sender: 1, Tree: true, Proposals: []*mlstest.Proposal{m.Remove(4)}})
	g, _ = commit(t, g, c)
	if !bytes.Equal(g.GroupInfo(), c.GroupInfo) || g.Size() < len(c.GroupInfo)+len(g.RatchetTree()) {
		t.Error("the GroupInfo is not the one that was sent, or is not counted")
	}
	for name, tree := range map[string][]byte{"inside": nil, "twice": g.RatchetTree()} {
		opened, err := RFC9420(DefaultLimits()).Open(g.GroupInfo(), tree)
		if err != nil || !bytes.Equal(opened.TreeHash(), g.TreeHash()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := g.VerifyGroupInfo(g.GroupInfo()); err != nil {
		t.Error(err)
	}
	limits := DefaultLimits()
	limits.Tree = len(m.RatchetTree()) - 1
	if _, err := RFC9420(limits).Open(m.GroupInfo(), nil); mimiport.KindOf(err) != mimiport.KindTooLarge {
		t.Errorf("a tree beyond the limit: %v", err)
	}
}

// TestDuplicates opens a group in which a device has several leaves. A Commit can remove or update each of these
// leaves. No Commit can add another leaf of the device.
func TestDuplicates(t *testing.T) {
	three := identities(3)
	m := scene{mlstest.New(mlstest.Options{
		Seed: 1, GroupID: []byte("group"), Members: slices.Concat(three, three[1:], three[1:2]),
	}), nil}
	g := open(t, m.Group)
	duplicates := func() (leaves []uint32) {
		for _, d := range g.Duplicates() {
			leaves = append(leaves, d.Leaf)
		}
		return leaves
	}
	step := func(want []uint32, o mlstest.CommitOptions) {
		t.Helper()
		for _, message := range o.References {
			g = propose(t, g, message)
		}
		c := m.Commit(o)
		g, _ = commit(t, g, c)
		m.Group = c.Next
		if got := duplicates(); !slices.Equal(got, want) {
			t.Errorf("duplicates %v, want %v", got, want)
		}
	}
	refused := func(c *mlstest.Commit) {
		t.Helper()
		if _, _, err := g.Commit(c.Message, c.GroupInfo); ruleOf(err) != ruleDeviceUnique.name {
			t.Errorf("one more leaf: %v", err)
		}
	}
	if got := duplicates(); !slices.Equal(got, []uint32{3, 4, 5}) {
		t.Errorf("duplicates %v", got)
	}
	step([]uint32{3, 4, 5}, mlstest.CommitOptions{Sender: 3, References: [][]byte{m.Propose(5, m.Update(5))}})
	step([]uint32{3, 5}, mlstest.CommitOptions{Proposals: []*mlstest.Proposal{m.Remove(2)}})
	refused(m.Commit(mlstest.CommitOptions{Proposals: []*mlstest.Proposal{m.Remove(1), m.Remove(5), m.Add(m.again(3))}}))
	step([]uint32{5}, mlstest.CommitOptions{Sender: 3, Proposals: []*mlstest.Proposal{m.Remove(1)}})
	refused(m.Commit(mlstest.CommitOptions{Joiner: m.again(5), Proposals: []*mlstest.Proposal{m.Remove(5)}}))
	step(nil, mlstest.CommitOptions{Proposals: []*mlstest.Proposal{m.Remove(5)}})
	step(nil, mlstest.CommitOptions{Joiner: m.again(3), Proposals: []*mlstest.Proposal{m.Remove(3)}})
}

// TestRenewed: Effects.Renewed lists the leaves with a signature key that is new for the credential.
func TestRenewed(t *testing.T) {
	s := newScene(nil)
	newKey := func(leaf uint32) *mlstest.Client { return s.again(leaf).As(s.client("key")) }
	update := s.Update(2)
	owner := newKey(2)
	update.Update = signLeaf(owner, edited(update.Update, func(l *rfc9420.LeafNode) {
		l.SignatureKey = owner.SignatureKey()
	}), s.ID(), 2)
	of := func(joiner *mlstest.Client, list ...*mlstest.Proposal) mlstest.CommitOptions {
		return mlstest.CommitOptions{Joiner: joiner, Proposals: list}
	}
	renewing, plain := s.Propose(2, update), s.Propose(3, s.Update(3))
	for name, c := range map[string]struct {
		o    mlstest.CommitOptions
		want []uint32
	}{
		"a path":                     {mlstest.CommitOptions{Sender: 1}, nil},
		"a path with another key":    {mlstest.CommitOptions{Sender: 1, Edit: mlstest.Edit{Owner: newKey(1)}}, []uint32{1}},
		"Updates":                    {mlstest.CommitOptions{References: [][]byte{renewing, plain}}, []uint32{2}},
		"an Add":                     {of(nil, s.Add(s.client("added"))), []uint32{6}},
		"a joiner":                   {of(s.client("joiner")), []uint32{6}},
		"a resync":                   {of(s.again(4).As(s.Client(4)), s.Remove(4)), nil},
		"a resync with another key":  {of(s.again(4), s.Remove(4)), []uint32{4}},
		"a device that is replaced":  {of(nil, s.Remove(4), s.Add(s.again(4))), []uint32{4}},
		"a device that comes again":  {of(nil, s.Remove(4), s.Add(s.again(4).As(s.Client(4)))), nil},
		"somebody else with the key": {of(nil, s.Remove(4), s.Add(s.client("thief").As(s.Client(4)))), []uint32{4}},
	} {
		g := open(t, s.Group)
		for _, message := range c.o.References {
			g = propose(t, g, message)
		}
		_, e := commit(t, g, s.Commit(c.o))
		var got []uint32
		for _, m := range e.Renewed {
			got = append(got, m.Leaf)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: renewed %v, want %v", name, got, c.want)
		}
	}
}

// TestGrease takes a group through messages like those of clients built on mlspp. Lifetimes have no end, and every
// list of types has a GREASE type. Leaves and a GroupInfo have GREASE extensions. A key package has one that its
// capabilities do not list. Each Commit has a path and covers all pending proposals. Each GroupInfo holds the tree.
// Leaves become blank, leaves stay unmerged, and the tree grows and shrinks.
func TestGrease(t *testing.T) {
	m := newScene(nil)
	g := open(t, m.Group)
	info := func(i *rfc9420.GroupInfo) {
		pub := append([]byte{32}, key(9)...)
		i.Extensions, _ = i.Extensions.With(rfc9420.ExtensionExternalPub, pub)
		i.Extensions, _ = i.Extensions.With(0x3a3a, []byte("of the GroupInfo"))
	}
	leaf := func(l *rfc9420.LeafNode) {
		l.Lifetime = rfc9420.Lifetime{NotAfter: 1<<64 - 1}
		l.Extensions = extensions(grease, []byte("of the leaf"))
		l.Capabilities.Versions = rfc9420.MakeUint16s(1, 0x0a0a)
	}
	path := func(l *rfc9420.LeafNode) {
		l.Extensions = extensions(0x1a1a, []byte("of the path"))
		l.Capabilities.Extensions = rfc9420.MakeUint16s(rfc9420.ExtensionAppDataDictionary, grease, 0x1a1a)
	}
	step := func(sender uint32, list ...*mlstest.Proposal) {
		t.Helper()
		var references [][]byte
		for _, p := range list {
			message := m.Propose(sender, p)
			references, g = append(references, message), propose(t, g, message)
		}
		c := m.Commit(mlstest.CommitOptions{
			Sender: sender, References: references, Path: true, Tree: true, Edit: mlstest.Edit{Info: info, Leaf: path},
		})
		g, _ = commit(t, g, c)
		m.Group = c.Next
		opened, err := RFC9420(DefaultLimits()).Open(m.GroupInfo(), m.RatchetTree())
		if err != nil || !bytes.Equal(opened.(*group).encodedContext, g.(*group).encodedContext) {
			t.Fatalf("the group differs after it is opened again: %v", err)
		}
	}
	add := func(name string) *mlstest.Proposal {
		return m.addOf(m.client(name), leaf, func(k *rfc9420.KeyPackage) {
			k.Extensions = extensions(0x3a3a, []byte("unlisted"))
		})
	}
	step(5, m.Remove(4), m.Remove(2))     // blanks
	step(1, add("a"), add("b"), add("c")) // at 2, 4 and 6, unmerged
	step(0, add("d"), add("e"), add("f")) // the tree doubles
	step(3, m.Remove(8), m.Remove(9))     // and halves
	if g.NumMembers() != 8 || g.(*group).tree.height != 3 {
		t.Errorf("%d members in a tree of height %d", g.NumMembers(), g.(*group).tree.height)
	}
}

// TestClosed: after a ReInit, a group refuses proposals and Commits, and RequireOpen fails.
func TestClosed(t *testing.T) {
	s := newScene(nil)
	message := s.Propose(1, s.ReInit([]byte("next")))
	for name, o := range map[string]mlstest.CommitOptions{
		"by value":     {Proposals: []*mlstest.Proposal{s.ReInit([]byte("next"))}},
		"by reference": {References: [][]byte{message}},
	} {
		g := propose(t, open(t, s.Group), message)
		c := s.Commit(o)
		if err := RequireOpen(g); err != nil || g.Closed() {
			t.Errorf("%s: closed before: %v", name, err)
		}
		next, e := commit(t, g, c)
		if !e.Closes || !next.Closed() || ruleOf(RequireOpen(next)) != ruleClosed.name {
			t.Errorf("%s: the group is still open", name)
		}
		if _, _, err := next.Propose(c.Next.Propose(0, c.Next.Remove(1))); ruleOf(err) != ruleClosed.name {
			t.Errorf("%s: a proposal: %v", name, err)
		}
	}
}

// TestSafeAAD reads a MigrationCommitAAD in the form that the profile, section 5, shows. In a group with SafeAAD it is
// one of several items, with other data behind them. In another group it is alone.
func TestSafeAAD(t *testing.T) {
	aad, err := (&mimiport.MigrationCommitAAD{TargetDomain: "target.example"}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	const vector = "12f1c40f0e7461726765742e6578616d706c65"
	profile, err := os.ReadFile(filepath.Join("..", "..", "docs", "profile.md"))
	if err != nil || !bytes.Contains(profile, []byte("`"+vector+"`")) {
		t.Errorf("the profile does not show %s: %v", vector, err)
	}
	s := newScene(appDataOf(1, componentSafeAAD))
	safe, plain := open(t, s.Group), open(t, newScene(appDataOf(1)).Group)
	data, err := AddMigrationAAD(safe, aad)
	if err != nil || hex.EncodeToString(data) != vector {
		t.Errorf("the data is %x: %v", data, err)
	}
	among := append(append([]byte{1 + 2*4 + byte(len(data))}, 0, 1, 1, 7), data[1:]...)
	among = append(among, 0xff, 0xff, 2, 8, 8)
	among[0] = byte(len(among) - 1)
	for name, c := range map[string]struct {
		g     Group
		data  []byte
		found bool
	}{
		"alone":          {safe, data, true},
		"before data":    {safe, append(data, "of no component"...), true},
		"among items":    {safe, among, true},
		"no items":       {safe, []byte{0}, false},
		"no SafeAAD":     {safe, aad, false},
		"no data at all": {safe, nil, false},
		"a plain group":  {plain, aad, true},
	} {
		if got, found := MigrationAAD(c.g, c.data); found != c.found || found && !bytes.Equal(got, aad) {
			t.Errorf("%s: %x, %v", name, got, found)
		}
	}
	commit(t, safe, s.Commit(mlstest.CommitOptions{AuthenticatedData: data}))
	if raw, err := AddMigrationAAD(plain, aad); err != nil || !bytes.Equal(raw, aad) {
		t.Errorf("in a plain group: %x, %v", raw, err)
	}
}

func TestLifetime(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	at := uint64(now.Unix())
	for _, c := range []struct {
		notBefore, notAfter uint64
		valid               bool
	}{
		{0, 0, true}, // no lifetime: the leaf does not come from a key package
		{at, at, true},
		{at + 3600, at + 9999, true},
		{at + 3601, at + 9999, false},
		{0, at - 3600, true},
		{0, at - 3601, false},
		{0, 1<<64 - 1, true},
		{1<<64 - 1, 1<<64 - 1, false},
	} {
		err := RequireLifetime(Member{NotBefore: c.notBefore, NotAfter: c.notAfter}, now)
		refused := ruleOf(err) == ruleLifetime.name && mimiport.KindOf(err) == mimiport.KindInvalid
		if (err == nil) != c.valid || refused == c.valid {
			t.Errorf("from %d to %d: %v", c.notBefore, c.notAfter, err)
		}
	}
}

// TestMoreSuites: an engine follows a group of a cipher suite that RFC 9420 does not have, when its limits name the
// suite.
func TestMoreSuites(t *testing.T) {
	xWing := CipherSuite{ID: mlstest.XWing, Hash: "SHA-256", Signature: "Ed25519", EncryptionKey: 1216, Leaves: 8}
	limits, err := DefaultLimits().WithSuite(xWing)
	if err != nil {
		t.Fatal(err)
	}
	ds := mlstest.NewClient(9, mlstest.XWing, []byte("example.org"))
	m := mlstest.New(mlstest.Options{
		CipherSuite: mlstest.XWing, GroupID: []byte("group"), Members: identities(7), Populated: true,
		ExternalSenders: []*mlstest.Client{ds},
	})
	_, err = RFC9420(DefaultLimits()).Open(m.GroupInfo(), m.RatchetTree())
	if mimiport.KindOf(err) != mimiport.KindUnsupported {
		t.Errorf("without the suite in its limits: %v", err)
	}
	e := RFC9420(limits)
	g, err := e.Open(m.GroupInfo(), m.RatchetTree())
	if err != nil {
		t.Fatal(err)
	}
	if scheme, err := SignatureScheme(g); err != nil || scheme != "ed25519" {
		t.Errorf("scheme %s: %v", scheme, err)
	}
	if scheme, err := e.(ExternalSenders).Scheme(mlstest.XWing); err != nil || scheme != "Ed25519" {
		t.Errorf("scheme %s: %v", scheme, err)
	}
	remove := m.ProposeExternal(0, ds, m.Remove(3))
	g = propose(t, propose(t, g, remove), m.Propose(2, m.Update(2)))
	g, _ = commit(t, g, m.Commit(mlstest.CommitOptions{References: [][]byte{remove}}))
	if g.NumMembers() != 6 {
		t.Errorf("%d members", g.NumMembers())
	}
	short := xWing
	short.EncryptionKey--
	if limits, err = DefaultLimits().WithSuite(short); err != nil {
		t.Fatal(err)
	}
	if _, err := RFC9420(limits).Open(m.GroupInfo(), m.RatchetTree()); ruleOf(err) != ruleEncryptionKey.name {
		t.Errorf("with keys of another size: %v", err)
	}
	for name, edit := range map[string]func(*CipherSuite){
		"one of RFC 9420":      func(s *CipherSuite) { s.ID = 1 },
		"no number":            func(s *CipherSuite) { s.ID = 0 },
		"an unknown hash":      func(s *CipherSuite) { s.Hash = "SHA-1" },
		"an unknown signature": func(s *CipherSuite) { s.Signature = "ML-DSA-44" },
		"no keys":              func(s *CipherSuite) { s.EncryptionKey = 0 },
		"keys too long":        func(s *CipherSuite) { s.EncryptionKey = 1 << 20 },
		"no leaves":            func(s *CipherSuite) { s.Leaves = 0 },
		"too many leaves":      func(s *CipherSuite) { s.Leaves = 1 << 20 },
	} {
		s := xWing
		edit(&s)
		if _, err := DefaultLimits().WithSuite(s); mimiport.KindOf(err) != mimiport.KindUnsupported {
			t.Errorf("%s: %v", name, err)
		}
	}
}
