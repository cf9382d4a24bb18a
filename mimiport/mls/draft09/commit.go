package draft09

import (
	"bytes"
	"slices"

	gomls "github.com/cisco/go-mls"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
)

// noExtensions is the GroupContext extensions of every group here, as one encoded vector.
var noExtensions = []byte{0, 0}

func (g *group) Commit(message, groupInfo []byte) (_ mls.Group, _ *mls.Effects, err error) {
	defer guard("commit", g.id, &err)
	next, effects, err := g.follow(message)
	if err != nil {
		return nil, nil, err
	}
	m, err := framing.Decode(groupInfo)
	switch {
	case err != nil:
		return nil, nil, err
	case m.GroupInfo == nil:
		return nil, nil, framing.ErrMessage
	}
	if err := next.takeInfo(groupInfo, m.GroupInfo); err != nil {
		return nil, nil, err
	}
	return next, effects, nil
}

// Follow implements mls.Follower.
func (g *group) Follow(message []byte) (_ mls.Group, _ *mls.Effects, err error) {
	defer guard("follow", g.id, &err)
	next, effects, err := g.follow(message)
	if err != nil {
		return nil, nil, err
	}
	return next, effects, nil
}

func (g *group) follow(message []byte) (*group, *mls.Effects, error) {
	m, err := g.handshake(message)
	if err != nil {
		return nil, nil, err
	}
	pt := m.Plaintext
	if pt.Content.Commit == nil {
		return nil, nil, framing.ErrMessage
	}
	t := &transition{
		before: g, sender: pt.Sender.Sender, commit: &pt.Content.Commit.Commit, tree: g.tree.Clone(),
		effects: mls.Effects{
			Sender:            mls.Sender{Type: mls.SenderMember, Index: pt.Sender.Sender},
			AuthenticatedData: pt.AuthenticatedData,
			ExtensionsBefore:  noExtensions,
			ExtensionsAfter:   noExtensions,
		},
	}
	for _, step := range []func() error{t.collect, t.checkList, t.applyProposals, t.applyPath} {
		if err := step(); err != nil {
			return nil, nil, err
		}
	}
	next, err := t.finish(pt)
	if err != nil {
		return nil, nil, err
	}
	return next, t.describe(next), nil
}

// transition is a Commit in progress.
type transition struct {
	before  *group
	sender  uint32
	commit  *gomls.Commit
	list    []*received // in the order of the Commit
	added   []uint32
	tree    gomls.TreeKEMPublicKey
	effects mls.Effects
}

// collect finds the proposals that the Commit references. It refuses a reference in the list of another type, which
// go-mls would apply, and a repeated reference, which go-mls would ignore.
func (t *transition) collect() error {
	known := make(map[string]*received, len(t.before.received))
	for _, r := range t.before.received {
		known[string(r.ref)] = r
	}
	for _, of := range []struct {
		typ gomls.ProposalType
		ids []gomls.ProposalID
	}{
		{gomls.ProposalTypeUpdate, t.commit.Updates},
		{gomls.ProposalTypeRemove, t.commit.Removes},
		{gomls.ProposalTypeAdd, t.commit.Adds},
	} {
		for _, id := range of.ids {
			r := known[string(id.Hash)]
			if r == nil || r.proposal.Type() != of.typ {
				return errReference
			}
			delete(known, string(id.Hash))
			t.list = append(t.list, r)
		}
	}
	return nil
}

// checkList enforces the rules of a list of proposals. Propose has checked that no two proposals change one leaf.
func (t *transition) checkList() error {
	for _, r := range t.list {
		leaf, changes := r.target()
		own := changes && leaf == t.sender
		switch {
		case own && r.proposal.Update != nil:
			return errUpdateSelf
		case own:
			return errSelfRemove
		}
	}
	if t.commit.Path == nil && t.commit.PathRequired() {
		return errPathRequired
	}
	return nil
}

// applyProposals changes the tree as go-mls does: updates, removes, then adds.
func (t *transition) applyProposals() error {
	for _, r := range t.list {
		switch p := r.proposal; p.Type() {
		case gomls.ProposalTypeUpdate:
			t.tree.UpdateLeaf(gomls.LeafIndex(r.sender), p.Update.KeyPackage)
		case gomls.ProposalTypeRemove:
			t.tree.BlankPath(p.Remove.Removed)
		default:
			if err := t.add(p.Add.KeyPackage); err != nil {
				return err
			}
		}
	}
	return nil
}

// add puts a key package into the leftmost blank leaf, which may be a new one.
func (t *transition) add(k gomls.KeyPackage) error {
	if len(leaves(t.tree.Nodes)) == framing.MaxLeaves {
		return errLeaves
	}
	t.added = append(t.added, uint32(t.tree.AddLeaf(k)))
	return nil
}

// applyPath checks the path and puts it into the tree. go-mls does not check a path.
func (t *transition) applyPath() error {
	path := t.commit.Path
	if path == nil {
		return nil
	}
	if err := checkKeyPackage(&path.LeafKeyPackage, t.before.suite); err != nil {
		return err
	}
	if !sameIdentity(t.before.leaf(t.sender), &path.LeafKeyPackage) {
		return errSuccessor
	}
	if !t.pathFits() {
		return errPathLength
	}
	if path.ParentHashValid(t.before.suite) != nil {
		return errPathParentHash
	}
	fresh := make(map[string]bool)
	isNew := func(key gomls.HPKEPublicKey) bool {
		return insert(fresh, key.Data) && !t.before.keys.encryption[string(key.Data)]
	}
	if !isNew(path.LeafKeyPackage.InitKey) {
		return errPathKey
	}
	for i := range path.Steps {
		if !isNew(path.Steps[i].PublicKey) {
			return errPathKey
		}
	}
	return t.tree.Merge(gomls.LeafIndex(t.sender), *path)
}

// pathFits reports whether the path has one node for each node of the direct path, and in it one ciphertext for each
// node in the resolution of the copath child. Unlike in RFC 9420, the direct path is not filtered, and the resolution
// includes the leaves that this Commit adds.
func (t *transition) pathFits() bool {
	nodes, steps := t.tree.Nodes, t.commit.Path.Steps
	above := directPath(t.sender, len(nodes))
	if len(steps) != len(above) {
		return false
	}
	for i, s := range above {
		if len(steps[len(steps)-1-i].EncryptedPathSecrets) != resolutionSize(nodes, s.sibling) {
			return false
		}
	}
	return true
}

// finish makes the group of the next epoch.
func (t *transition) finish(pt *gomls.MLSPlaintext) (*group, error) {
	g := t.before
	confirmed, err := framing.ConfirmedTranscriptHash(g.suite, g.interim, pt)
	if err != nil {
		return nil, err
	}
	interim, err := framing.InterimTranscriptHash(g.suite, confirmed, pt)
	if err != nil {
		return nil, err
	}
	next := &group{
		suite: g.suite, id: g.id, epoch: g.epoch + 1, tree: t.tree,
		confirmed: confirmed, interim: interim, confirmation: pt.Content.Commit.Confirmation.Data,
	}
	if err := next.complete(); err != nil {
		return nil, err
	}
	for _, leaf := range t.added {
		if next.keys.devices[string(next.leaf(leaf).Credential.Identity())] > 1 {
			return nil, errDevice
		}
	}
	return next, nil
}

// describe completes the effects of the Commit.
func (t *transition) describe(next *group) *mls.Effects {
	e := &t.effects
	e.Committer, _ = next.Member(t.sender)
	e.HasPath = t.commit.Path != nil
	e.SameCredential = sameCredential(t.before.leaf(t.sender), next.leaf(t.sender))
	for _, r := range t.list {
		e.Proposals = append(e.Proposals, r.describe(t.before))
		switch leaf, _ := r.target(); r.proposal.Type() {
		case gomls.ProposalTypeUpdate:
			m, _ := next.Member(leaf)
			e.Updated = append(e.Updated, m)
		case gomls.ProposalTypeRemove:
			m, _ := t.before.Member(leaf)
			e.Removed = append(e.Removed, m)
		}
	}
	for _, leaf := range t.added {
		m, _ := next.Member(leaf)
		e.Added = append(e.Added, m)
	}
	e.Renewed = t.renewed()
	return e
}

// renewed makes Effects.Renewed, with identities for credentials.
func (t *transition) renewed() (out []mls.Member) {
	e, gone := &t.effects, slices.Clone(t.effects.Removed)
	brought := slices.Concat(e.Updated, e.Added)
	if e.HasPath {
		brought = append(brought, e.Committer)
	}
	for _, m := range append(slices.Clone(e.Updated), e.Committer) {
		before, _ := t.before.Member(m.Leaf)
		gone = append(gone, before)
	}
	for _, m := range brought {
		if !slices.ContainsFunc(gone, func(g mls.Member) bool {
			return bytes.Equal(g.Identity, m.Identity) && bytes.Equal(g.SignatureKey, m.SignatureKey)
		}) {
			out = append(out, m)
		}
	}
	return out
}

// sameIdentity reports whether two leaves have the same identity: they belong to one device.
func sameIdentity(a, b *gomls.KeyPackage) bool {
	return bytes.Equal(a.Credential.Identity(), b.Credential.Identity())
}

// sameCredential reports whether two leaves have the same identity and signature key.
func sameCredential(a, b *gomls.KeyPackage) bool {
	return sameIdentity(a, b) && a.Credential.PublicKey().Equals(*b.Credential.PublicKey())
}
