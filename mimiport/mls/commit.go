package mls

import (
	"bytes"
	"cmp"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

func (g *group) Commit(message, groupInfo []byte) (Group, *Effects, error) {
	next, effects, err := g.commit(message, groupInfo)
	if err != nil {
		return nil, nil, failed("commit", g.ID(), err)
	}
	return next, effects, nil
}

// Follow implements Follower.
func (g *group) Follow(message []byte) (Group, *Effects, error) {
	next, effects, err := g.follow(message, nil)
	if err != nil {
		return nil, nil, failed("follow", g.ID(), err)
	}
	return next, effects, nil
}

func (g *group) commit(message, groupInfo []byte) (*group, *Effects, error) {
	info, infoErr := g.readInfo(groupInfo)
	next, effects, err := g.follow(message, info)
	if err != nil {
		return nil, nil, err
	}
	if infoErr != nil {
		return nil, nil, infoErr
	}
	return next, effects, next.takeInfo(groupInfo, info)
}

// follow applies a Commit. info is the GroupInfo of the next epoch, not yet verified. It may be nil unless the Commit
// has an AppDataUpdate: only the GroupInfo shows the data that an AppDataUpdate leads to.
func (g *group) follow(message []byte, info *rfc9420.GroupInfo) (*group, *Effects, error) {
	m, err := g.handshake(message, rfc9420.ContentCommit)
	if err != nil {
		return nil, nil, err
	}
	t, err := g.newTransition(m, info)
	if err != nil {
		return nil, nil, err
	}
	for _, step := range []func() error{t.collect, t.checkList, t.applyProposals, t.applyPath, t.checkMembers} {
		if err := step(); err != nil {
			return nil, nil, err
		}
	}
	next, err := t.finish(m)
	if err != nil {
		return nil, nil, err
	}
	return next, t.effects(m, next), nil
}

// transition is a Commit in progress: its proposals, and the group of the next epoch as far as it is made.
type transition struct {
	*edit
	ledger
	g         *group
	external  bool   // an external Commit
	committer uint32 // the committer's leaf; for an external Commit, placeJoiner sets it
	commit    *rfc9420.Commit
	info      *rfc9420.GroupInfo // of the next epoch, not yet verified; nil when the caller has none

	list    []*received // in the order of the Commit
	adds    []*received
	updates []leafChange // this and the next two lists are sorted by leaf
	removes []leafChange
	added   []leafChange

	tree       tree
	extensions rfc9420.Extensions
	required   rfc9420.RequiredCapabilities

	newExtensions bool // the Commit has a GroupContextExtensions
	closes        bool // the Commit has a ReInit
}

// newTransition checks the sender and the signature of a Commit (RFC 9420, sections 6.1 and 12.4.2).
func (g *group) newTransition(m *rfc9420.PublicMessage, info *rfc9420.GroupInfo) (*transition, error) {
	c := &m.Content
	t := &transition{
		edit: newEdit(g.suite, g.tree.root.support), ledger: g.newLedger(g.keys), g: g, info: info,
		external: c.Sender.Type == SenderNewMemberCommit, committer: c.Sender.Index, commit: c.Commit,
		tree: g.tree, extensions: g.context.Extensions, required: g.required,
	}
	if !t.external && c.Sender.Type != SenderMember {
		return nil, refuse(ruleSenderType)
	}
	if t.external && c.Commit.Path == nil {
		return nil, refuse(ruleExternalPath)
	}
	if c.Commit.NumProposals > g.limits.Proposals {
		return nil, errMany
	}
	return t, g.verifySender(m)
}

// collect finds the proposals by reference and checks the proposals by value.
func (t *transition) collect() error {
	known := make(map[string]*received, len(t.g.received))
	for _, r := range t.g.received {
		known[string(r.ref)] = r
	}
	t.list = make([]*received, 0, t.commit.NumProposals)
	for p := range t.commit.Proposals.All() {
		r, err := t.resolve(p, known)
		if err != nil {
			return err
		}
		t.list = append(t.list, r)
	}
	return nil
}

func (t *transition) resolve(p rfc9420.ProposalOrRef, known map[string]*received) (*received, error) {
	if p.Proposal == nil {
		r := known[string(p.Ref)]
		if r == nil {
			return nil, refuse(ruleReference)
		}
		return r, t.require(!t.external || r.proposal.Type.IsSelfRemove(), ruleExternalReference)
	}
	r := &received{sender: rfc9420.Sender{Type: SenderMember, Index: t.committer}, proposal: p.Proposal}
	if t.external {
		r.sender = rfc9420.Sender{Type: SenderNewMemberCommit}
	}
	if err := t.require(!t.external || externalProposal(p.Proposal.Type), ruleExternalProposals); err != nil {
		return nil, err
	}
	if err := t.require(t.external || p.Proposal.Type != ProposalExternalInit, ruleExternalInit); err != nil {
		return nil, err
	}
	if err := t.require(p.Proposal.Type != ProposalUpdate, ruleUpdateSelf); err != nil {
		return nil, err
	}
	if err := t.require(!p.Proposal.Type.IsSelfRemove(), ruleSelfRemoveValue); err != nil {
		return nil, err
	}
	return r, t.g.checkProposal(t.supports, r)
}

// externalProposal reports whether an external Commit may have a proposal of a type by value (RFC 9420, section
// 12.4.3.2, and draft-ietf-mls-extensions-10).
func externalProposal(typ ProposalType) bool {
	switch typ {
	case ProposalExternalInit, ProposalRemove, ProposalPSK, ProposalAppDataUpdate, ProposalAppEphemeral:
		return true
	}
	return false
}

// checkList enforces the rules of a list of proposals (RFC 9420, section 12.2). It sorts the proposals into lists by
// type.
func (t *transition) checkList() error {
	count := make(map[ProposalType]int)
	psks := make(map[string]bool)
	pathRequired := len(t.list) == 0
	for _, r := range t.list {
		p := r.proposal
		count[p.Type]++
		switch p.Type {
		case ProposalAdd:
			t.adds = append(t.adds, r)
		case ProposalUpdate:
			t.updates = append(t.updates, leafChange{r.sender.Index, bytes.Clone(p.Update.Raw), t.supportOf(p.Update)})
		case ProposalRemove:
			t.removes = append(t.removes, leafChange{leaf: p.Remove})
		case ProposalSelfRemove, rfc9420.ProposalPrivateSelfRemove:
			t.removes = append(t.removes, leafChange{leaf: r.sender.Index})
		case ProposalPSK:
			if err := t.require(!psks[string(p.PSK.Raw)], rulePSKUnique); err != nil {
				return err
			}
			psks[string(p.PSK.Raw)] = true
		case ProposalGroupContextExtensions:
			t.extensions, t.newExtensions = bytes.Clone(p.Extensions), true
		case ProposalReInit:
			t.closes = true
		}
		pathRequired = pathRequired || requiresPath(p.Type)
	}
	if err := t.require(t.commit.Path != nil || !pathRequired, rulePathRequired); err != nil {
		return err
	}
	if err := t.require(count[ProposalReInit] == 0 || len(t.list) == 1, ruleReInitAlone); err != nil {
		return err
	}
	if err := t.require(count[ProposalGroupContextExtensions] <= 1, ruleExtensionsOnce); err != nil {
		return err
	}
	if t.external {
		if err := t.checkExternalList(count); err != nil {
			return err
		}
	}
	return t.checkTargets()
}

// requiresPath reports whether a proposal requires a path (RFC 9420, section 17.4, and draft-ietf-mls-extensions-10).
// It returns false for custom types: only members know whether these require a path.
func requiresPath(typ ProposalType) bool {
	switch typ {
	case ProposalUpdate, ProposalRemove, ProposalExternalInit, ProposalGroupContextExtensions:
		return true
	}
	return typ.IsSelfRemove()
}

func (t *transition) checkExternalList(count map[ProposalType]int) error {
	if err := t.require(count[ProposalExternalInit] > 0, ruleExternalInitMissing); err != nil {
		return err
	}
	if err := t.require(count[ProposalExternalInit] <= 1, ruleExternalInitOnce); err != nil {
		return err
	}
	return t.require(count[ProposalRemove] <= 1, ruleExternalRemove)
}

func byLeaf(a, b leafChange) int { return cmp.Compare(a.leaf, b.leaf) }

// checkTargets sorts the lists of updated and removed leaves. It refuses the committer's own leaf and a leaf that two
// proposals change (RFC 9420, section 12.2).
func (t *transition) checkTargets() error {
	slices.SortStableFunc(t.updates, byLeaf)
	slices.SortStableFunc(t.removes, byLeaf)
	isCommitter := func(c leafChange) bool { return !t.external && c.leaf == t.committer }
	if err := t.require(!slices.ContainsFunc(t.updates, isCommitter), ruleUpdateSelf); err != nil {
		return err
	}
	if err := t.require(!slices.ContainsFunc(t.removes, isCommitter), ruleSelfRemove); err != nil {
		return err
	}
	changes := slices.Concat(t.updates, t.removes)
	slices.SortStableFunc(changes, byLeaf)
	once := slices.CompactFunc(changes, func(a, b leafChange) bool { return a.leaf == b.leaf })
	return t.require(len(once) == len(t.updates)+len(t.removes), ruleRemoveUnique)
}

// applyProposals makes the tree as it is before the path (RFC 9420, section 12.3).
func (t *transition) applyProposals() error {
	if err := t.applyAppData(); err != nil {
		return err
	}
	var err error
	if t.required, _, err = t.readExtensions(t.extensions); err != nil {
		return err
	}
	changes := slices.Concat(t.updates, t.removes)
	slices.SortStableFunc(changes, byLeaf)
	for _, c := range changes {
		t.dropLeaf(c.leaf)
	}
	t.tree = truncate(t.set(t.tree, changes, t.dropParent))
	if err := t.checkStaying(child(t.tree.root).support); err != nil {
		return err
	}
	for _, u := range t.updates {
		if err := t.require(u.caps.required(&t.required), ruleRequiredUpdate); err != nil {
			return err
		}
		l := decodeLeaf(u.raw)
		if err := t.insertLeaf(&l, ruleUpdateKeyUnique); err != nil {
			return err
		}
		t.insertSuccessor(&l)
	}
	return t.applyAdds()
}

// checkStaying checks that each member that is neither added nor removed supports the types of all proposals (RFC 9420,
// section 12.2). s is the support of these members.
func (t *transition) checkStaying(s *support) error {
	for _, r := range t.list {
		typ := r.proposal.Type
		if err := t.require(rfc9420.DefaultProposal(typ) || s.proposal(typ), ruleProposalSupported); err != nil {
			return err
		}
	}
	return nil
}

// dropLeaf takes the keys and the credential of a leaf out of the sets. It does nothing for a blank leaf.
func (t *transition) dropLeaf(leaf uint32) {
	if n := t.tree.find(leaf); n != nil {
		t.drop(n.raw)
	}
}

// dropParent takes the key of a parent out of the set. It does nothing for a blank parent.
func (t *transition) dropParent(n *node) {
	if !n.isBlank() {
		t.keys.encryption = t.keys.encryption.without(idOf(decodeParent(n.raw).EncryptionKey))
	}
}

// applyAdds puts the added leaves into the leftmost blank places, in the order of the Commit (RFC 9420, section
// 12.1.1).
func (t *transition) applyAdds() error {
	if len(t.adds) == 0 {
		return nil
	}
	initKeys := make(map[string]bool, len(t.adds))
	for leaf := range t.tree.blanks() {
		k := t.adds[len(t.added)].proposal.Add
		caps := t.supportOf(&k.Leaf)
		if err := t.require(caps.required(&t.required), ruleRequiredAdd); err != nil {
			return err
		}
		if err := t.require(!initKeys[string(k.InitKey)], ruleInitKeyUnique); err != nil {
			return err
		}
		initKeys[string(k.InitKey)] = true
		if err := t.insertLeaf(&k.Leaf, ruleEncryptionKeyUnique); err != nil {
			return err
		}
		if err := t.insertDevice(&k.Leaf); err != nil {
			return err
		}
		t.added = append(t.added, leafChange{leaf, bytes.Clone(k.Leaf.Raw), caps})
		if len(t.added) == len(t.adds) {
			break
		}
	}
	if err := t.g.requirePlace(t.added[len(t.added)-1].leaf); err != nil {
		return err
	}
	t.tree = t.add(t.tree, t.added)
	return nil
}

// requirePlace fails for a leaf beyond the limit of the cipher suite.
func (g *group) requirePlace(leaf uint32) error {
	if uint64(leaf) >= uint64(g.limits.Leaves[g.suite.ID]) {
		return errLeaves
	}
	return nil
}

// applyPath puts the committer's path into the tree (RFC 9420, sections 7.5 and 12.4.2).
func (t *transition) applyPath() error {
	path := t.commit.Path
	if path == nil {
		return nil
	}
	l := &path.Leaf
	if err := t.checkSuccessor(l); err != nil {
		return err
	}
	if err := t.placeJoiner(); err != nil {
		return err
	}
	if err := t.require(l.Source == rfc9420.SourceCommit, ruleLeafSource); err != nil {
		return err
	}
	caps := t.supportOf(l)
	if err := t.checkLeaf(t.g.suite, l, caps); err != nil {
		return err
	}
	if err := t.require(caps.required(&t.required), ruleRequiredUpdate); err != nil {
		return err
	}
	if err := t.verifyLeaf(t.g.suite, l, t.g.context.GroupID, t.committer); err != nil {
		return err
	}
	steps := t.tree.path(t.committer)
	if err := t.require(t.pathFits(steps), rulePathLength); err != nil {
		return err
	}
	if err := t.replaceKeys(steps); err != nil {
		return err
	}
	return t.placePath(steps, caps)
}

// checkSuccessor checks that the path's leaf has the credential of the leaf that it replaces. A member's Commit
// replaces the committer's leaf, an external Commit the leaf that it removes.
func (t *transition) checkSuccessor(l *rfc9420.LeafNode) error {
	if !t.external {
		return t.g.requireSuccessor(l, t.committer)
	}
	for _, r := range t.list {
		if r.proposal.Type != ProposalRemove {
			continue
		}
		if err := t.g.requireSuccessor(l, r.proposal.Remove); err != nil {
			return err
		}
	}
	return nil
}

// placeJoiner assigns a leaf to the sender of an external Commit (RFC 9420, section 12.4.3.2).
func (t *transition) placeJoiner() error {
	if !t.external {
		return nil
	}
	for t.committer = range t.tree.blanks() {
		break
	}
	if err := t.g.requirePlace(t.committer); err != nil {
		return err
	}
	t.tree = t.extend(t.tree, t.committer)
	return nil
}

// step is one node of a direct path with its child on the copath (RFC 9420, section 4.1.2).
type step struct {
	node    *node
	sibling *node // nil where everything at and below the sibling's place is blank
	place   span  // the sibling's
}

// onPath reports whether the node is in the filtered direct path.
func (s *step) onPath() bool { return child(s.sibling).resolution > 0 }

// path returns the direct path of a leaf, from the root down.
func (t tree) path(leaf uint32) []step {
	steps := make([]step, 0, t.height)
	n := child(t.root)
	for at := t.span(); at.height > 0; {
		if leaf < at.middle() {
			steps = append(steps, step{n, n.right, at.right()})
			n, at = child(n.left), at.left()
		} else {
			steps = append(steps, step{n, n.left, at.left()})
			n, at = child(n.right), at.right()
		}
	}
	return steps
}

// pathFits reports whether the path has one node for each node of the filtered direct path, and in it one ciphertext
// for each node in the resolution of the copath child, without the leaves that this Commit adds (RFC 9420, section
// 7.5).
func (t *transition) pathFits(steps []step) bool {
	nodes := t.commit.Path.Nodes
	for _, s := range slices.Backward(steps) {
		if !s.onPath() {
			continue
		}
		if len(nodes) == 0 || nodes[0].Count != int(s.sibling.resolution)-t.addedBelow(s.place) {
			return false
		}
		nodes = nodes[1:]
	}
	return len(nodes) == 0
}

// addedBelow counts the leaves that this Commit adds at and below a place.
func (t *transition) addedBelow(at span) int {
	compare := func(c leafChange, leaf uint64) int { return cmp.Compare(uint64(c.leaf), leaf) }
	position := func(leaf uint64) int {
		i, _ := slices.BinarySearchFunc(t.added, leaf, compare)
		return i
	}
	return position(uint64(at.first)+1<<at.height) - position(uint64(at.first))
}

// replaceKeys puts the path's keys into the sets and then takes out the keys that the path replaces. This order
// matters: no encryption key of the path may be in the old tree, not even as a key that the path replaces (RFC 9420,
// section 12.4.2).
func (t *transition) replaceKeys(steps []step) error {
	path := t.commit.Path
	if err := t.insertEncryptionKey(path.Leaf.EncryptionKey, rulePathLeafKeyUnique); err != nil {
		return err
	}
	for i := range path.Nodes {
		key := path.Nodes[i].EncryptionKey
		if err := t.require(t.g.suite.ValidEncryptionKey(key), ruleEncryptionKey); err != nil {
			return err
		}
		if err := t.insertEncryptionKey(key, rulePathKeyUnique); err != nil {
			return err
		}
	}
	for _, s := range steps {
		t.dropParent(s.node)
	}
	t.dropLeaf(t.committer)
	if err := t.insertSignatureKey(path.Leaf.SignatureKey); err != nil {
		return err
	}
	if t.external {
		return t.insertDevice(&path.Leaf)
	}
	t.insertSuccessor(&path.Leaf)
	return nil
}

// placePath puts the path's nodes into the tree. Each node holds the parent hash of the node above, so placePath
// computes them from the root down, and at the end checks the parent hash in the path's leaf (RFC 9420, section 7.9).
func (t *transition) placePath(steps []step, caps *support) error {
	path := t.commit.Path
	raws := make([][]byte, len(steps))
	rest := path.Nodes
	var sum digest
	hash := sum[:0]
	for i, s := range steps {
		if !s.onPath() || len(rest) == 0 {
			continue
		}
		p := rfc9420.ParentNode{EncryptionKey: rest[len(rest)-1].EncryptionKey, ParentHash: hash}
		rest = rest[:len(rest)-1]
		raws[i] = encode(&p)
		hash = t.parentHash(&sum, &p, t.treeHash(s.sibling, s.place))
	}
	if err := t.require(bytes.Equal(path.Leaf.ParentHash, hash), rulePathParentHash); err != nil {
		return err
	}
	n := makeLeaf(bytes.Clone(path.Leaf.Raw), caps) // a slice would keep the whole message in memory
	for i, s := range slices.Backward(steps) {
		if s.place.first > t.committer {
			n = t.join(n, s.sibling, raws[i], 0)
		} else {
			n = t.join(s.sibling, n, raws[i], 0)
		}
	}
	t.tree.root = n
	return nil
}

// checkMembers enforces the rules about all members of the new epoch, and the limit on the size of their tree.
func (t *transition) checkMembers() error {
	if size, _ := t.tree.encodedSize(); size > min(t.g.limits.Tree, wire.MaxVector) {
		return errSize
	}
	s := t.tree.root.support
	if err := t.require(!t.newExtensions || s.required(&t.required), ruleExtensionsSupport); err != nil {
		return err
	}
	return t.checkSupport(s, t.extensions)
}

// finish makes the group of the next epoch (RFC 9420, section 8.2).
func (t *transition) finish(m *rfc9420.PublicMessage) (*group, error) {
	g := t.g
	context := g.context
	context.Epoch++
	context.TreeHash = bytes.Clone(t.treeHash(t.tree.root, t.tree.span()))
	context.ConfirmedTranscriptHash = g.suite.Sum(g.interim, m.TranscriptInput())
	context.Extensions = t.extensions
	next := &group{engine: g.engine, suite: g.suite, tree: t.tree, keys: t.keys, closed: t.closes}
	return next, next.setContext(&context, nil, bytes.Clone(m.ConfirmationTag))
}

// takeInfo checks the GroupInfo that came with the Commit to this epoch (RFC 9420, section 12.4.3), and keeps it.
func (g *group) takeInfo(groupInfo []byte, info *rfc9420.GroupInfo) error {
	tree, found := info.RatchetTree()
	if g.treeInside = found; found {
		if err := g.require(bytes.Equal(tree, g.tree.encode()), ruleInfoTree); err != nil {
			return err
		}
	}
	if err := g.require(bytes.HasPrefix(info.Raw, g.encodedContext), ruleInfoContext); err != nil {
		return err
	}
	if err := g.require(bytes.Equal(info.ConfirmationTag, g.confirmationTag), ruleInfoConfirmationTag); err != nil {
		return err
	}
	g.groupInfo = groupInfo
	return g.checkInfo(info)
}

// effects describes the Commit for callers.
func (t *transition) effects(m *rfc9420.PublicMessage, next *group) *Effects {
	g := t.g
	e := &Effects{
		Sender:            m.Content.Sender,
		Committer:         memberAt(t.committer, t.tree.find(t.committer).raw),
		AuthenticatedData: m.Content.AuthenticatedData,
		HasPath:           t.commit.Path != nil,
		SameCredential:    !t.external && t.sameCredential(),
		ExtensionsBefore:  encodeExtensions(g.context.Extensions),
		ExtensionsAfter:   encodeExtensions(next.context.Extensions),
		Closes:            t.closes,
	}
	for _, r := range t.list {
		e.Proposals = append(e.Proposals, r.describe(g.suite, g.tree))
	}
	for _, c := range t.added {
		e.Added = append(e.Added, memberAt(c.leaf, c.raw))
	}
	for _, c := range t.removes {
		e.Removed = append(e.Removed, memberAt(c.leaf, g.tree.find(c.leaf).raw))
	}
	for _, c := range t.updates {
		e.Updated = append(e.Updated, memberAt(c.leaf, c.raw))
	}
	e.Renewed = t.renewed()
	return e
}

// renewed makes Effects.Renewed.
func (t *transition) renewed() (out []Member) {
	brought := slices.Concat(t.updates, t.added)
	if t.commit.Path != nil {
		brought = append(brought, leafChange{leaf: t.committer, raw: t.tree.find(t.committer).raw})
	}
	for _, c := range brought {
		if l := decodeLeaf(c.raw); !t.gone[deviceOf(&l)] {
			out = append(out, memberOf(c.leaf, &l))
		}
	}
	return out
}

func (t *transition) sameCredential() bool {
	before := decodeLeaf(t.g.tree.find(t.committer).raw).Credential
	after := decodeLeaf(t.tree.find(t.committer).raw).Credential
	return before.Type == after.Type && bytes.Equal(before.Contents, after.Contents)
}

func encodeExtensions(e rfc9420.Extensions) []byte {
	var b cryptobyte.Builder
	wire.AddOpaque(&b, e)
	return b.BytesOrPanic() // it cannot panic: the extensions came in a vector of this size
}
