package mls

import (
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// outlook describes the group as it would be if one Commit applied all pending proposals. It decides whether one more
// proposal may be pending: some clients always commit all pending proposals. It is cautious: it still counts the
// support of leaves that proposals remove, and the keys of parents that would become blank.
type outlook struct {
	keys       keys
	initKeys   *keySet  // of the Adds
	staying    *support // of the members, with their old leaves and with the leaves of Updates
	everyone   *support // of the same and of the Adds
	types      []uint16 // the proposals' types, without the default types of RFC 9420; sorted
	extensions rfc9420.Extensions
	required   rfc9420.RequiredCapabilities
	targets    int // leaves that proposals update or remove: their members cannot commit all proposals
	adds       int
	size       int // bytes of the new leaves
}

// now returns the outlook without any pending proposal.
func (g *group) now() outlook {
	all := g.tree.root.support
	return outlook{keys: g.keys, staying: all, everyone: all, extensions: g.context.Extensions, required: g.required}
}

// target returns the leaf that a proposal updates or removes.
func (r *received) target() (leaf uint32, found bool) {
	switch p := r.proposal; {
	case p.Type == ProposalRemove:
		return p.Remove, true
	case p.Type == ProposalUpdate, p.Type.IsSelfRemove():
		return r.sender.Index, true
	}
	return 0, false
}

// with returns the outlook with one more proposal, which checkProposal has accepted.
func (o outlook) with(g *group, s *supports, r *received) (outlook, error) {
	p, b := r.proposal, g.newLedger(o.keys)
	if leaf, found := r.target(); found {
		b.drop(g.tree.find(leaf).raw)
		o.targets++
	}
	var err error
	switch p.Type {
	case ProposalAdd:
		err = o.add(&b, s, p.Add)
	case ProposalUpdate:
		err = o.update(&b, s, p.Update)
	case ProposalGroupContextExtensions:
		o.extensions = p.Extensions
		if o.required, _, err = g.readExtensions(p.Extensions); err == nil {
			err = g.require(o.everyone.required(&o.required), ruleExtensionsSupport)
		}
	}
	if err != nil {
		return o, err
	}
	if !rfc9420.DefaultProposal(p.Type) {
		o.types = union(o.types, []uint16{uint16(p.Type)})
	}
	o.keys = b.keys
	return o, o.check(g)
}

func (o *outlook) add(b *ledger, s *supports, k *rfc9420.KeyPackage) error {
	caps, init := s.supportOf(&k.Leaf), idOf(k.InitKey)
	if err := b.require(caps.required(&o.required), ruleRequiredAdd); err != nil {
		return err
	}
	if err := b.require(!o.initKeys.has(init), ruleInitKeyUnique); err != nil {
		return err
	}
	o.initKeys = o.initKeys.with(init)
	o.everyone = s.merge(o.everyone, caps)
	o.adds++
	o.size += len(k.Leaf.Raw)
	if err := b.insertLeaf(&k.Leaf, ruleEncryptionKeyUnique); err != nil {
		return err
	}
	return b.insertDevice(&k.Leaf)
}

func (o *outlook) update(b *ledger, s *supports, l *rfc9420.LeafNode) error {
	caps := s.supportOf(l)
	if err := b.require(caps.required(&o.required), ruleRequiredUpdate); err != nil {
		return err
	}
	o.staying, o.everyone = s.merge(o.staying, caps), s.merge(o.everyone, caps)
	o.size += len(l.Raw)
	b.insertSuccessor(l)
	return b.insertLeaf(l, ruleUpdateKeyUnique)
}

// check checks that all members support the types of the proposals and the extensions.
func (o *outlook) check(g *group) error {
	for _, t := range o.types {
		if err := g.require(has(o.staying.proposals, t), ruleProposalSupported); err != nil {
			return err
		}
	}
	readable := o.everyone.extension(rfc9420.ExtensionAppDataDictionary)
	if err := g.require(readable || !has(o.types, uint16(ProposalAppDataUpdate)), ruleExtensionsSupport); err != nil {
		return err
	}
	return g.checkSupport(o.everyone, o.extensions)
}

// spacePerLeaf bounds two sizes in bytes: how much a new leaf adds to a tree besides the leaf's encoding, and how much
// one node of a path adds.
const spacePerLeaf = 256

// requireSpace fails unless the tree has space for all new leaves, and for the path of the Commit that adds them.
func (o *outlook) requireSpace(g *group) error {
	if g.NumMembers()+o.adds > g.limits.Leaves[g.suite.ID] {
		return errLeaves
	}
	if size, _ := g.tree.encodedSize(); size+o.size+(o.adds+32)*spacePerLeaf > g.limits.Tree {
		return errSize
	}
	return nil
}

// admit checks that one Commit can have a proposal together with all pending ones, and adds the proposal. A Remove of
// an external sender replaces an Update of the same leaf and a pending ReInit: no member may hold up a removal that
// the Delivery Service demands.
func (g *group) admit(s *supports, r *received) (*group, error) {
	demanded := r.sender.Type == SenderExternal && r.proposal.Type == ProposalRemove
	next := *g
	if len(next.received) == 0 {
		next.outlook = g.now()
	}
	for _, other := range g.received {
		switch {
		case !g.conflict(r, other):
		case demanded && other.proposal.Type == ProposalUpdate:
			return g.replace(other, r), nil
		case demanded && other.proposal.Type == ProposalReInit:
			next.received, next.outlook = nil, g.now() // the ReInit was the only pending proposal
		default:
			if err := g.require(false, ruleTogether); err != nil {
				return nil, err
			}
		}
	}
	after, err := next.outlook.with(g, s, r)
	if err != nil {
		if _, alone := g.now().with(g, s, r); alone != nil {
			return nil, alone
		}
		if err := g.require(false, ruleTogether); err != nil {
			return nil, err
		}
	}
	if err := g.require(demanded || after.targets < g.NumMembers(), ruleNoCommitter); err != nil {
		return nil, err
	}
	if after.size > next.outlook.size {
		if err := after.requireSpace(g); err != nil {
			return nil, err
		}
	}
	next.outlook = after
	next.received = append(next.received[:len(next.received):len(next.received)], r)
	return &next, nil
}

// replace puts the Remove of a leaf in the place of the leaf's Update.
func (g *group) replace(update, remove *received) *group {
	next, b := *g, g.newLedger(g.outlook.keys)
	b.drop(update.proposal.Update.Raw) // the old leaf was dropped when the Update came
	next.outlook.keys = b.keys
	next.received = slices.Clone(g.received)
	next.received[slices.Index(g.received, update)] = remove // same place: later proposals may rely on the old leaf going
	return &next
}

// conflict reports whether no Commit may have both proposals (RFC 9420, section 12.2, and
// draft-ietf-mls-extensions-10).
func (g *group) conflict(a, b *received) bool {
	p, q := a.proposal, b.proposal
	leaf, changes := a.target()
	other, alsoChanges := b.target()
	both := func(t ProposalType) bool { return p.Type == t && q.Type == t }
	switch {
	case p.Type == ProposalReInit, q.Type == ProposalReInit:
		return true
	case changes && alsoChanges && leaf == other:
		return true
	case both(ProposalGroupContextExtensions):
		return true
	case both(ProposalAppDataUpdate):
		return p.AppDataUpdate.Component == q.AppDataUpdate.Component &&
			(p.AppDataUpdate.Operation == rfc9420.AppDataRemove || q.AppDataUpdate.Operation == rfc9420.AppDataRemove)
	case p.AppDataUpdate != nil && q.Type == ProposalGroupContextExtensions:
		return g.changesAppData(q.Extensions)
	case q.AppDataUpdate != nil && p.Type == ProposalGroupContextExtensions:
		return g.changesAppData(p.Extensions)
	}
	return false
}
