package mls

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// offence is input that breaks one rule and no other. A test makes it from valid input, which it changes and signs
// again.
type offence struct {
	rule *rule
	// commit gives the input to an engine.
	commit func(*engine) error
	// why is the reason why the engine cannot accept the input even with the rule masked. When it is empty, the engine
	// must accept the input with the rule masked.
	why string
}

func (e *engine) with(masked ...*rule) *engine {
	out := *e
	out.masked = make(map[*rule]bool)
	for _, r := range masked {
		out.masked[r] = true
	}
	return &out
}

func TestRules(t *testing.T) {
	e := &engine{limits: DefaultLimits()}
	tested := make(map[*rule]bool)
	for i, o := range offences() {
		t.Run(fmt.Sprintf("%s/%d", o.rule.name, i), func(t *testing.T) {
			tested[o.rule] = true
			err := o.commit(e)
			var typed *mimiport.Error
			if !errors.As(err, &typed) || typed.Info.Rule != o.rule.name || typed.Kind != o.rule.kind {
				t.Fatalf("refused with: %v", err)
			}
			if o.why != "" {
				return
			}
			if err := o.commit(e.with(o.rule)); err != nil {
				t.Errorf("with the rule masked: %v", err)
			}
		})
	}
	for _, name := range declaredRules(t) {
		found := false
		for r := range tested {
			found = found || r.name == name
		}
		if !found {
			t.Errorf("no test of rule %s", name)
		}
	}
}

// declaredRules lists the names of all rules in rules.go.
func declaredRules(t *testing.T) (names []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "rules.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "rule") {
			return true
		}
		named := false // the first string of a rule is its name
		ast.Inspect(spec, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && !named {
				names, named = append(names, strings.Trim(lit.Value, `"`)), true
			}
			return !named
		})
		return false
	})
	return names
}

// TestRulesDocument checks that docs/mls-rules.md has the row of each rule in the code.
func TestRulesDocument(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "mls-rules.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range offences() {
		accepted := o.why
		if accepted == "" {
			accepted = "accepted with the rule masked"
		}
		row := fmt.Sprintf(
			"| %s | %s | %s | `TestRules/%s`: %s |", o.rule.name, o.rule.section, o.rule.text, o.rule.name, accepted,
		)
		if !bytes.Contains(text, []byte(row+"\n")) {
			t.Errorf("lacks the row\n%s", row)
		}
	}
}

// Types that are in no client's default capabilities, except grease.
const (
	unknownExtension  = 0xf001
	unknownProposal   = 0xf0f2
	unknownCredential = 0xf003
	grease            = 0x2a2a // listed by every synthetic client
)

// scene is the group of the offences: six members, all parents set, one external sender.
type scene struct {
	*mlstest.Group
	ds *mlstest.Client
}

func newScene(extensions rfc9420.Extensions) scene {
	ds := mlstest.NewClient(99, 1, []byte("example.org"))
	return scene{mlstest.New(mlstest.Options{
		Seed: 1, GroupID: []byte("group"), Members: identities(6), Populated: true,
		ExternalSenders: []*mlstest.Client{ds}, Extensions: extensions,
	}), ds}
}

func (s scene) client(name string) *mlstest.Client {
	return s.NewClient(mlstest.Identity("@"+name+":example.org", "DEVICE"))
}

// commits makes the offence of a Commit. It first gives the referenced proposals to the engine.
func (s scene) commits(r *rule, o mlstest.CommitOptions) offence {
	return s.submits(r, s.Commit(o), o.References...)
}

func (s scene) submits(r *rule, c *mlstest.Commit, references ...[]byte) offence {
	return offence{rule: r, commit: func(e *engine) error {
		g, err := e.Open(s.GroupInfo(), s.RatchetTree())
		for _, message := range references {
			if err == nil {
				g, _, err = g.Propose(message)
			}
		}
		if err == nil {
			_, _, err = g.Commit(c.Message, c.GroupInfo)
		}
		return err
	}}
}

// commitsValue makes the offence of a Commit of some proposals by value.
func (s scene) commitsValue(r *rule, list ...*mlstest.Proposal) offence {
	return s.commits(r, mlstest.CommitOptions{Proposals: list})
}

// joins makes the offence of an external Commit.
func (s scene) joins(r *rule, edit mlstest.Edit, list ...*mlstest.Proposal) offence {
	return s.commits(r, mlstest.CommitOptions{Joiner: s.client("joiner"), Proposals: list, Edit: edit})
}

// proposes makes the offence of a proposal message.
func (s scene) proposes(r *rule, message []byte) offence {
	return offence{rule: r, commit: func(e *engine) error {
		g, err := e.Open(s.GroupInfo(), s.RatchetTree())
		if err == nil {
			_, _, err = g.Propose(message)
		}
		return err
	}}
}

// adds makes the offence of the last of several proposal messages.
func (s scene) adds(r *rule, messages ...[]byte) offence {
	last := len(messages) - 1
	return offence{rule: r, commit: func(e *engine) error {
		g, err := e.Open(s.GroupInfo(), s.RatchetTree())
		for i, message := range messages {
			if err != nil {
				return err
			}
			if g, _, err = g.Propose(message); err != nil && i < last {
				return fmt.Errorf("proposal %d: %v", i, err)
			}
		}
		return err
	}}
}

func opens(r *rule, groupInfo, tree []byte) offence {
	return offence{rule: r, commit: func(e *engine) error {
		_, err := e.Open(groupInfo, tree)
		return err
	}}
}

func (o offence) because(why string) offence {
	o.why = why
	return o
}

// add makes an Add of a new client. editLeaf changes the leaf before the client signs it, then edit the key package.
func (s scene) add(editLeaf func(*rfc9420.LeafNode), edit func(*rfc9420.KeyPackage)) *mlstest.Proposal {
	return s.addOf(s.client("added"), editLeaf, edit)
}

func (s scene) addOf(
	c *mlstest.Client, editLeaf func(*rfc9420.LeafNode), edit func(*rfc9420.KeyPackage),
) *mlstest.Proposal {
	p := s.Add(c)
	k := *p.Add
	if editLeaf != nil {
		editLeaf(&k.Leaf)
		k.Leaf = *signLeaf(c, &k.Leaf, nil, 0)
	}
	if edit != nil {
		edit(&k)
	}
	k.Signature = resign(c, &k, (*rfc9420.KeyPackage).SignContent)
	p.Add = reread(&k)
	return p
}

func signLeaf(c *mlstest.Client, l *rfc9420.LeafNode, groupID []byte, place uint32) *rfc9420.LeafNode {
	l.Signature = resign(c, l, func(l *rfc9420.LeafNode) []byte { return l.SignContent(groupID, place) })
	return reread(l)
}

// resign signs v as it is now.
func resign[T any, P interface {
	*T
	rfc9420.Value
}](c *mlstest.Client, v P, content func(P) []byte) []byte {
	return c.SignContent(content(reread(v)))
}

// reread encodes and decodes v. The result has its encoding in Raw.
func reread[T any, P interface {
	*T
	rfc9420.Value
}](v P) P {
	raw, err := rfc9420.Marshal(v)
	out := P(new(T))
	if err != nil || !rfc9420.Unmarshal(raw, out) {
		panic("not well-formed")
	}
	return out
}

func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)-1] ^= 1
	return b
}

func extensions(list ...any) (e rfc9420.Extensions) {
	for i := 0; i < len(list); i += 2 {
		e, _ = e.With(uint16(list[i].(int)), list[i+1].([]byte))
	}
	return e
}

// required makes a required_capabilities extension that requires some extensions.
func required(types ...uint16) []byte {
	return requires(rfc9420.RequiredCapabilities{Extensions: rfc9420.MakeUint16s(types...)})
}

func requires(r rfc9420.RequiredCapabilities) []byte {
	data, _ := rfc9420.Marshal(&r)
	return data
}

func offences() []offence {
	s := newScene(nil)
	needsGrease := newScene(extensions(int(rfc9420.ExtensionRequiredCapabilities), required(grease)))
	list := framingOffences(s)
	list = append(list, proposalOffences(s)...)
	list = append(list, capabilityOffences(s, needsGrease)...)
	list = append(list, togetherOffences(s)...)
	list = append(list, appDataOffences()...)
	list = append(list, commitOffences(s)...)
	list = append(list, externalOffences(s)...)
	list = append(list, infoOffences(s)...)
	return append(list, treeOffences(s)...)
}

func framingOffences(s scene) []offence {
	content := func(f func(*rfc9420.FramedContent)) mlstest.CommitOptions {
		return mlstest.CommitOptions{Edit: mlstest.Edit{Content: f}}
	}
	message := func(f func(*rfc9420.PublicMessage)) mlstest.CommitOptions {
		return mlstest.CommitOptions{Edit: mlstest.Edit{Message: f}}
	}
	late := mlstest.New(mlstest.Options{Epoch: 1 << 63, GroupID: []byte("late"), Members: identities(2)})
	application := s.Commit(content(func(c *rfc9420.FramedContent) { c.ContentType = rfc9420.ContentApplication }))
	return []offence{
		s.commits(ruleGroupID, content(func(c *rfc9420.FramedContent) { c.GroupID = []byte("other") })),
		s.commits(ruleEpoch, content(func(c *rfc9420.FramedContent) { c.Epoch++ })),
		s.commits(
			ruleSender, content(func(c *rfc9420.FramedContent) { c.Sender.Index = 7 }),
		).because("a blank leaf has no key"),
		s.submits(ruleApplication, application).because("it holds no handshake"),
		s.commits(ruleMembershipTag, message(func(m *rfc9420.PublicMessage) { m.MembershipTag = nil })),
		s.commits(ruleConfirmationTag, message(func(m *rfc9420.PublicMessage) { m.ConfirmationTag = nil })),
		s.commits(ruleSignature, message(func(m *rfc9420.PublicMessage) { m.Signature = flip(m.Signature) })),
		s.commits(ruleSenderType, content(func(c *rfc9420.FramedContent) {
			c.Sender = Sender{Type: SenderExternal}
		})).because("it has no leaf to commit for"),
		s.proposes(ruleExternalSender, s.ProposeExternal(1, s.ds, s.Remove(1))).because("there is no key"),
		opens(ruleEpochRange, late.GroupInfo(), late.RatchetTree()),
	}
}

func proposalOffences(s scene) []offence {
	alice, bob := s.client("alice"), s.client("bob")
	key := s.Update(4).Update.EncryptionKey
	used := s.leaf(3).EncryptionKey
	psk := func(edit func(*rfc9420.PreSharedKeyID)) *mlstest.Proposal {
		p := s.PSK([]byte("psk"))
		edit(p.PSK)
		p.PSK = reread(p.PSK)
		return p
	}
	same := s.PSK([]byte("psk"))
	reinit := s.ReInit([]byte("next"))
	reinit.ReInit.Version = 0
	update := s.Update(2)
	update.Update = signLeaf(
		s.Client(2), edited(update.Update, func(l *rfc9420.LeafNode) { l.EncryptionKey = used }), s.ID(), 2,
	)
	renamed := s.Update(2)
	renamed.Update = signLeaf(s.Client(2), edited(renamed.Update, func(l *rfc9420.LeafNode) {
		l.Credential.Contents = s.leaf(3).Credential.Contents
	}), s.ID(), 2)
	forged := s.add(nil, nil)
	forged.Add.Signature = flip(forged.Add.Signature)
	return []offence{
		s.commitsValue(ruleSignatureKeyUnique, s.addOf(s.NewClient(nil).As(s.Client(3)), nil, nil)),
		s.commitsValue(ruleInitKeyUnique,
			s.addOf(alice, nil, func(k *rfc9420.KeyPackage) { k.InitKey = key }),
			s.addOf(bob, nil, func(k *rfc9420.KeyPackage) { k.InitKey = key })),
		s.commitsValue(ruleEncryptionKeyUnique, s.add(func(l *rfc9420.LeafNode) { l.EncryptionKey = used }, nil)),
		s.commitsValue(ruleInitKeyDistinct, s.add(nil, func(k *rfc9420.KeyPackage) { k.InitKey = k.Leaf.EncryptionKey })),
		s.commitsValue(ruleKeyPackageSuite, s.add(nil, func(k *rfc9420.KeyPackage) { k.CipherSuite = 3 })),
		s.commitsValue(ruleKeyPackageSuite, s.add(nil, func(k *rfc9420.KeyPackage) { k.Version = 2 })),
		s.commitsValue(ruleRemoveUnique, s.Remove(4), s.Remove(4)),
		s.commits(ruleRemoveUnique, mlstest.CommitOptions{
			References: [][]byte{s.Propose(4, s.Update(4))}, Proposals: []*mlstest.Proposal{s.Remove(4)},
		}),
		s.proposes(ruleRemoveMember, s.Propose(0, s.Remove(7))).because("there is nothing to remove"),
		s.proposes(ruleRemoveMember, s.Propose(0, s.Remove(1<<31))).because("there is nothing to remove"),
		s.proposes(ruleUpdateKeyUnique, s.Propose(2, update)),
		s.proposes(ruleSuccessor, s.Propose(2, renamed)),
		s.commits(ruleUpdateSelf, mlstest.CommitOptions{References: [][]byte{s.Propose(0, s.Update(0))}}),
		s.proposes(ruleUpdateSender, s.ProposeExternal(0, s.ds, s.Update(0))),
		s.commitsValue(ruleProposalSupported, &mlstest.Proposal{Type: unknownProposal, Custom: []byte("custom")}),
		s.commitsValue(ruleKeyPackageSignature, forged),
		s.proposes(rulePSKReference, s.Propose(0, same)),
		s.commitsValue(ruleSelfRemoveValue, s.SelfRemove()).because("its sender would commit its own removal"),
		s.commitsValue(
			ruleLifetimeOrder, s.add(func(l *rfc9420.LeafNode) { l.Lifetime.NotAfter = l.Lifetime.NotBefore }, nil),
		),
		{rule: ruleLifetime, why: "only a caller with a clock checks it", commit: func(*engine) error {
			return RequireLifetime(Member{NotBefore: 1, NotAfter: 2}, time.Unix(1_700_000_000, 0))
		}},
		s.commitsValue(rulePSKNonce, psk(func(p *rfc9420.PreSharedKeyID) { p.Nonce = p.Nonce[1:] })),
		s.commitsValue(rulePSKUsage, psk(func(p *rfc9420.PreSharedKeyID) {
			p.Type, p.Usage = rfc9420.PSKResumption, rfc9420.UsageBranch
		})),
		s.commitsValue(rulePSKUnique, same, same),
		s.commitsValue(ruleReInitAlone, s.ReInit([]byte("next")), same),
		s.commitsValue(ruleReInitVersion, reinit),
		s.commitsValue(ruleExternalInit, &mlstest.Proposal{Type: ProposalExternalInit, KEMOutput: key}),
		s.submits(ruleReference, s.Commit(mlstest.CommitOptions{References: [][]byte{s.Propose(1, s.Remove(2))}})).
			because("there is nothing to apply"),
	}
}

// again makes a client with the credential of a member and with new keys.
func (s scene) again(leaf uint32) *mlstest.Client {
	return s.NewClient(s.leaf(leaf).Credential.Contents)
}

// follows makes the offence of a Commit in the epoch that another Commit starts.
func (s scene) follows(r *rule, first *mlstest.Commit) offence {
	second := first.Next.Commit(mlstest.CommitOptions{})
	return offence{rule: r, commit: func(e *engine) error {
		g, err := e.Open(s.GroupInfo(), s.RatchetTree())
		if err != nil {
			return err
		}
		if g, _, err = g.Commit(first.Message, first.GroupInfo); err != nil {
			return err
		}
		_, _, err = g.Commit(second.Message, second.GroupInfo)
		return err
	}}
}

// leaf returns a member's leaf.
func (s scene) leaf(leaf uint32) rfc9420.LeafNode {
	t, err := openTree(rfc9420.SuiteByID(1), s.RatchetTree())
	if err != nil {
		panic(err)
	}
	return decodeLeaf(t.find(leaf).raw)
}

func edited[T any](v *T, edit func(*T)) *T {
	out := *v
	edit(&out)
	return &out
}

func capabilityOffences(s, needsGrease scene) []offence {
	dull := func(l *rfc9420.LeafNode) { l.Capabilities.Extensions = nil }
	update := needsGrease.Update(2)
	update.Update = signLeaf(needsGrease.Client(2), edited(update.Update, dull), needsGrease.ID(), 2)
	committed := s.Update(2)
	committed.Update = signLeaf(
		s.Client(2), edited(committed.Update, func(l *rfc9420.LeafNode) { l.Source = rfc9420.SourceCommit }), s.ID(), 2,
	)
	alone := scene{mlstest.New(mlstest.Options{GroupID: []byte("alone"), Members: identities(1)}), s.ds}
	undecodable := s.SetExtensions(extensions(int(rfc9420.ExtensionExternalSenders), []byte{1}))
	return []offence{
		needsGrease.commitsValue(ruleRequiredAdd, needsGrease.add(dull, nil)),
		needsGrease.commits(ruleRequiredUpdate, mlstest.CommitOptions{References: [][]byte{needsGrease.Propose(2, update)}}),
		needsGrease.commits(ruleRequiredUpdate, mlstest.CommitOptions{Edit: mlstest.Edit{Leaf: dull}}),
		s.commitsValue(ruleExtensionsSupport, s.SetExtensions(extensions(unknownExtension, []byte{}))),
		s.commits(ruleExtensionsSupport, mlstest.CommitOptions{
			Proposals: []*mlstest.Proposal{
				s.SetExtensions(extensions(int(rfc9420.ExtensionRequiredCapabilities), required(unknownExtension))),
			},
			Edit: mlstest.Edit{
				Leaf: func(l *rfc9420.LeafNode) { l.Capabilities.Extensions = rfc9420.MakeUint16s(unknownExtension) },
			},
		}),
		s.commitsValue(ruleExtensionsUnique, s.SetExtensions(extensions(grease, []byte{}, grease, []byte{}))),
		s.commitsValue(ruleExtensionEncoding, undecodable),
		s.commitsValue(
			ruleLeafExtensions, s.add(func(l *rfc9420.LeafNode) { l.Extensions = extensions(unknownExtension, []byte{}) }, nil),
		),
		s.commitsValue(ruleLeafCredential, s.add(func(l *rfc9420.LeafNode) {
			l.Credential.Type = unknownCredential
			l.Capabilities.Credentials = rfc9420.MakeUint16s(unknownCredential, rfc9420.CredentialBasic)
		}, nil)),
		s.commitsValue(ruleLeafCredential, s.add(func(l *rfc9420.LeafNode) { l.Capabilities.Credentials = nil }, nil)),
		s.commitsValue(ruleLeafSource, s.add(func(l *rfc9420.LeafNode) { l.Source = rfc9420.SourceUpdate }, nil)),
		s.proposes(ruleLeafSource, s.Propose(2, committed)),
		alone.commits(ruleLeafSource, mlstest.CommitOptions{ // in a larger group, the leaf would lack a parent hash too
			Edit: mlstest.Edit{Leaf: func(l *rfc9420.LeafNode) { l.Source = rfc9420.SourceUpdate }},
		}),
	}
}

// togetherOffences are proposals that are valid alone, and that no Commit can have together with the proposals before.
func togetherOffences(s scene) []offence {
	alice, bob := s.client("alice"), s.client("bob")
	of := func(c *mlstest.Client, edit func(*rfc9420.LeafNode)) []byte {
		return s.Propose(0, s.addOf(c, edit, nil))
	}
	key := s.Update(4).Update.EncryptionKey
	init := func(c *mlstest.Client) []byte {
		return s.Propose(0, s.addOf(c, nil, func(k *rfc9420.KeyPackage) { k.InitKey = key }))
	}
	sameKey := func(l *rfc9420.LeafNode) { l.EncryptionKey = key }
	dull := func(l *rfc9420.LeafNode) { l.Capabilities.Extensions, l.Capabilities.Proposals = nil, nil }
	dullUpdate := s.Update(2)
	dullUpdate.Update = signLeaf(s.Client(2), edited(dullUpdate.Update, dull), s.ID(), 2)
	grease := s.Propose(1, s.SetExtensions(extensions(grease, []byte{})))
	custom := s.Propose(1, s.AppEphemeral(1, []byte("data")))
	reinit := s.Propose(1, s.ReInit([]byte("next")))
	two := scene{mlstest.New(mlstest.Options{GroupID: []byte("two"), Members: identities(2)}), s.ds}
	return []offence{
		s.adds(ruleTogether, s.Propose(0, s.Remove(3)), s.Propose(1, s.Remove(3))),
		s.adds(ruleTogether, s.ProposeExternal(0, s.ds, s.Remove(3)), s.Propose(1, s.Remove(3))),
		s.adds(ruleTogether, s.Propose(0, s.Remove(3)), s.ProposeExternal(0, s.ds, s.Remove(3))),
		s.adds(ruleTogether, s.Propose(2, s.Update(2)), s.Propose(0, s.Remove(2))),
		s.adds(ruleTogether, s.ProposeExternal(0, s.ds, s.Remove(2)), s.Propose(2, s.Update(2))),
		s.adds(ruleTogether, s.Propose(2, s.Update(2)), s.Propose(2, s.Update(2))),
		s.adds(ruleTogether, s.Propose(2, s.Update(2)), s.Propose(2, s.SelfRemove())),
		s.adds(ruleTogether, s.Propose(2, s.SelfRemove()), s.Propose(0, s.Remove(2))),
		s.adds(ruleTogether, of(alice, nil), of(bob.As(alice), nil)),
		s.adds(ruleTogether, of(alice, nil), of(s.client("alice"), nil)),
		s.adds(ruleTogether, of(alice, sameKey), of(bob, sameKey)),
		s.adds(ruleTogether, init(alice), init(bob)),
		s.adds(ruleTogether, of(alice, nil), s.ProposeSelf(s.client("alice"))),
		s.adds(ruleTogether, grease, s.Propose(0, s.SetExtensions(nil))),
		s.adds(ruleTogether, grease, of(alice, dull)),
		s.adds(ruleTogether, grease, s.Propose(2, dullUpdate)),
		s.adds(ruleTogether, of(alice, dull), grease),
		s.adds(ruleTogether, custom, s.Propose(2, dullUpdate)),
		s.adds(ruleTogether, s.Propose(2, dullUpdate), custom),
		s.adds(ruleTogether, s.Propose(0, s.Remove(3)), reinit),
		s.adds(ruleTogether, reinit, s.Propose(0, s.Remove(3))),
		s.adds(ruleTogether, s.Propose(0, s.SetAppData(1, nil)), s.Propose(0, s.SetExtensions(appDataOf(1)))),
		s.adds(ruleTogether, s.Propose(0, s.SetExtensions(appDataOf(1))), s.Propose(0, s.SetAppData(2, nil))),
		two.adds(ruleNoCommitter, two.Propose(0, two.Update(0)), two.Propose(1, two.Update(1))),
		two.adds(ruleNoCommitter, two.Propose(0, two.SelfRemove()), two.Propose(1, two.Remove(1))),
	}
}

// appDataOf makes GroupContext extensions with an app_data_dictionary, in which some components have data.
func appDataOf(components ...uint16) rfc9420.Extensions {
	var list rfc9420.ComponentList
	for _, c := range components {
		list = append(list, rfc9420.ComponentData{Component: c, Data: []byte("before")})
	}
	data, err := rfc9420.Marshal(&list)
	if err != nil {
		panic(err)
	}
	return extensions(int(rfc9420.ExtensionAppDataDictionary), data)
}

func appDataOffences() []offence {
	s := newScene(appDataOf(11, 12))
	strict := newScene(extensions(int(rfc9420.ExtensionRequiredCapabilities), requires(rfc9420.RequiredCapabilities{
		Proposals: rfc9420.MakeUint16s(uint16(ProposalAppDataUpdate)),
	})))
	combined := newScene(appDataOf(componentAPQInfo))
	safe := newScene(appDataOf(componentSafeAAD))
	result := func(components ...uint16) offence {
		return s.commits(ruleAppDataResult, mlstest.CommitOptions{
			Proposals: []*mlstest.Proposal{s.SetAppData(13, []byte("after"))},
			Edit: mlstest.Edit{Info: func(i *rfc9420.GroupInfo) {
				data, _ := appDataOf(components...).Find(rfc9420.ExtensionAppDataDictionary)
				i.Context.Extensions, _ = i.Context.Extensions.Replace(rfc9420.ExtensionAppDataDictionary, data)
			}},
		})
	}
	return []offence{
		s.proposes(ruleAppDataRemove, s.Propose(0, s.RemoveAppData(13))),
		s.adds(ruleTogether, s.Propose(0, s.SetAppData(11, nil)), s.Propose(1, s.RemoveAppData(11))),
		s.adds(ruleTogether, s.Propose(0, s.RemoveAppData(11)), s.Propose(1, s.RemoveAppData(11))),
		s.commitsValue(ruleAppDataOnce, s.SetAppData(11, nil), s.RemoveAppData(11)),
		safe.proposes(ruleSafeAAD, safe.Propose(0, safe.Remove(1))),
		// components out of order
		safe.commits(ruleSafeAAD, mlstest.CommitOptions{AuthenticatedData: []byte{6, 0, 2, 0, 0, 1, 0}}),
		s.proposes(ruleCombiner, s.Propose(0, s.SetAppData(componentAPQInfo, nil))),
		s.commitsValue(ruleCombiner, s.SetExtensions(appDataOf(componentAPQInfo))),
		opens(ruleCombiner, combined.GroupInfo(), combined.RatchetTree()),
		strict.commitsValue(ruleAppDataExtensions, strict.SetExtensions(appDataOf(1))),
		result(11, 13),         // 12 is missing
		result(11, 12),         // 13 is missing
		result(11, 12, 13, 14), // 14 should not be there
		s.commitsValue(
			ruleExtensionEncoding, s.SetExtensions(extensions(int(rfc9420.ExtensionAppDataDictionary), []byte{1})),
		),
	}
}

func commitOffences(s scene) []offence {
	used := s.leaf(3).EncryptionKey
	edit := func(e mlstest.Edit) mlstest.CommitOptions { return mlstest.CommitOptions{Edit: e} }
	twice := s.SetExtensions(extensions(grease, []byte{}))
	return []offence{
		s.commitsValue(ruleSelfRemove, s.Remove(0)),
		s.commits(rulePathRequired, mlstest.CommitOptions{
			Proposals: []*mlstest.Proposal{s.Remove(1)}, Edit: mlstest.Edit{NoPath: true},
		}),
		s.commits(rulePathRequired, edit(mlstest.Edit{NoPath: true})),
		s.commits(rulePathLength, edit(mlstest.Edit{Path: func(p *rfc9420.UpdatePath) { p.Nodes[1].Ciphertexts = nil }})),
		s.commits(rulePathLength, edit(mlstest.Edit{Path: func(p *rfc9420.UpdatePath) { p.Nodes = p.Nodes[1:] }})),
		s.commits(rulePathLength, edit(mlstest.Edit{Path: func(p *rfc9420.UpdatePath) {
			p.Nodes = append([]rfc9420.UpdatePathNode{{EncryptionKey: s.Update(1).Update.EncryptionKey}}, p.Nodes...)
		}})),
		s.commits(rulePathLeafKeyUnique, edit(mlstest.Edit{Leaf: func(l *rfc9420.LeafNode) { l.EncryptionKey = used }})),
		s.commits(
			rulePathKeyUnique, edit(mlstest.Edit{Path: func(p *rfc9420.UpdatePath) { p.Nodes[0].EncryptionKey = used }}),
		),
		s.commits(rulePathKeyUnique, edit(mlstest.Edit{
			Path: func(p *rfc9420.UpdatePath) { p.Nodes[0].EncryptionKey = p.Nodes[1].EncryptionKey },
		})),
		s.commitsValue(ruleExtensionsOnce, twice, twice),
		s.commits(
			rulePathParentHash, edit(mlstest.Edit{Leaf: func(l *rfc9420.LeafNode) { l.ParentHash = flip(l.ParentHash) }}),
		),
		s.commits(ruleSignatureKeyUnique, edit(mlstest.Edit{Owner: s.Client(0).As(s.Client(3))})),
		s.commits(
			ruleSuccessor, edit(mlstest.Edit{Leaf: func(l *rfc9420.LeafNode) { l.Credential.Contents = []byte("other") }}),
		),
		s.commitsValue(ruleDeviceUnique, s.Add(s.again(3))),
		s.commitsValue(ruleDeviceUnique, s.Add(s.client("twice")), s.Add(s.client("twice"))),
		s.follows(ruleClosed, s.Commit(mlstest.CommitOptions{Proposals: []*mlstest.Proposal{s.ReInit([]byte("next"))}})),
	}
}

func externalOffences(s scene) []offence {
	init := &mlstest.Proposal{Type: ProposalExternalInit, KEMOutput: []byte("kem")}
	noInit := func(c *rfc9420.FramedContent) { c.Commit.Proposals = nil }
	noPath := mlstest.Edit{NoPath: true}
	twins := scene{mlstest.New(mlstest.Options{
		GroupID: []byte("twins"), Members: slices.Concat(identities(2), identities(2)[1:]),
	}), s.ds}
	forge := mlstest.Edit{Message: func(m *rfc9420.PublicMessage) { m.Signature = flip(m.Signature) }}
	self := new(rfc9420.Message)
	rfc9420.Unmarshal(s.ProposeSelf(s.client("self")), self)
	self.Public.Signature = flip(self.Public.Signature)
	forged, _ := rfc9420.Marshal(self)
	return []offence{
		s.joins(ruleExternalInitMissing, mlstest.Edit{Content: noInit}),
		s.joins(ruleExternalInitOnce, mlstest.Edit{}, init),
		s.joins(ruleExternalProposals, mlstest.Edit{}, s.Add(s.client("other"))),
		twins.commits(ruleExternalRemove, mlstest.CommitOptions{
			Joiner: twins.again(1), Proposals: []*mlstest.Proposal{twins.Remove(1), twins.Remove(2)},
		}),
		s.joins(ruleSuccessor, mlstest.Edit{}, s.Remove(1)),
		s.commits(ruleDeviceUnique, mlstest.CommitOptions{Joiner: s.again(1)}),
		s.commits(ruleExternalReference, mlstest.CommitOptions{
			Joiner: s.client("joiner"), References: [][]byte{s.Propose(1, s.AppEphemeral(1, nil))},
		}),
		s.joins(ruleExternalPath, noPath).because("there is no leaf to verify with"),
		s.joins(ruleExternalSignature, forge),
		s.proposes(ruleNewMemberAddSignature, forged),
	}
}

func infoOffences(s scene) []offence {
	edit := func(f func(*rfc9420.GroupInfo)) mlstest.CommitOptions {
		return mlstest.CommitOptions{Edit: mlstest.Edit{Info: f}}
	}
	external := func(pub []byte) mlstest.CommitOptions {
		return edit(func(i *rfc9420.GroupInfo) { i.Extensions = extensions(int(rfc9420.ExtensionExternalPub), pub) })
	}
	forged := s.Commit(mlstest.CommitOptions{})
	forged.GroupInfo = flip(forged.GroupInfo)
	added := s.Commit(mlstest.CommitOptions{Proposals: []*mlstest.Proposal{s.Add(s.client("a"))}})
	welcomes := func(list ...[]byte) offence {
		return offence{rule: ruleWelcomeMembers, commit: func(e *engine) error {
			g, err := e.Open(s.GroupInfo(), s.RatchetTree())
			if err != nil {
				return err
			}
			_, effects, err := g.Commit(added.Message, added.GroupInfo)
			if err != nil {
				return err
			}
			return e.CheckWelcomes(effects, list)
		}}
	}
	return []offence{
		s.commits(ruleInfoTree, edit(func(i *rfc9420.GroupInfo) { // the tree of the previous epoch
			i.Extensions = extensions(int(rfc9420.ExtensionRatchetTree), s.RatchetTree())
		})),
		opens(ruleInfoTree, s.signed(func(i *rfc9420.GroupInfo) {
			i.Extensions = extensions(int(rfc9420.ExtensionRatchetTree), s.Commit(mlstest.CommitOptions{}).Next.RatchetTree())
		}), s.RatchetTree()),
		s.commits(ruleExternalPub, external(make([]byte, 32))), // not a vector: the length is missing
		s.commits(ruleExternalPub, external([]byte{0})),
		s.commits(ruleExternalPub, external(append([]byte{31}, make([]byte, 31)...))),
		s.commits(ruleExternalPub, external(append([]byte{32}, make([]byte, 33)...))),
		opens(
			ruleInfoSigner, s.unsigned(func(i *rfc9420.GroupInfo) { i.Signer = 6 }), s.RatchetTree(),
		).because("a blank leaf has no key"),
		s.commits(ruleExtensionsUnique, edit(func(i *rfc9420.GroupInfo) {
			i.Extensions = extensions(grease, []byte{}, grease, []byte{})
		})),
		s.submits(ruleInfoSignature, forged),
		s.commits(ruleInfoContext, edit(func(i *rfc9420.GroupInfo) { i.Context.Epoch++ })),
		s.commits(ruleInfoConfirmationTag, edit(func(i *rfc9420.GroupInfo) { i.ConfirmationTag = flip(i.ConfirmationTag) })),
		welcomes(),
		welcomes(added.Welcome, added.Welcome),
		welcomes(added.Welcome, s.Welcome(s.client("b"))),
	}
}

// signed makes the group's GroupInfo with a change, signed again.
func (s scene) signed(edit func(*rfc9420.GroupInfo)) []byte {
	return s.unsigned(func(i *rfc9420.GroupInfo) {
		edit(i)
		i.Signature = resign(s.Client(i.Signer), i, (*rfc9420.GroupInfo).SignContent)
	})
}

// unsigned makes the group's GroupInfo with a change and the old signature.
func (s scene) unsigned(edit func(*rfc9420.GroupInfo)) []byte {
	m := new(rfc9420.Message)
	if !rfc9420.Unmarshal(s.GroupInfo(), m) {
		panic("not well-formed")
	}
	edit(m.GroupInfo)
	out, _ := rfc9420.Marshal(m)
	return out
}
