package mlstest

import (
	"cmp"
	"slices"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// Add proposes to add a client.
func (g *Group) Add(c *Client) *Proposal {
	g.known[string(c.key.Public)] = c
	return &Proposal{Type: rfc9420.ProposalAdd, Add: c.keyPackage}
}

// Remove proposes to remove a member.
func (g *Group) Remove(leaf uint32) *Proposal {
	return &Proposal{Type: rfc9420.ProposalRemove, Remove: leaf}
}

// SelfRemove proposes to remove its sender.
func (g *Group) SelfRemove() *Proposal { return &Proposal{Type: rfc9420.ProposalSelfRemove} }

// SetAppData proposes to set the data of an application component.
func (g *Group) SetAppData(component uint16, data []byte) *Proposal {
	return &Proposal{Type: rfc9420.ProposalAppDataUpdate, AppDataUpdate: &rfc9420.AppDataUpdate{
		Component: component, Operation: rfc9420.AppDataSet, Update: data,
	}}
}

// RemoveAppData proposes to remove the data of an application component.
func (g *Group) RemoveAppData(component uint16) *Proposal {
	return &Proposal{Type: rfc9420.ProposalAppDataUpdate, AppDataUpdate: &rfc9420.AppDataUpdate{
		Component: component, Operation: rfc9420.AppDataRemove,
	}}
}

// AppEphemeral proposes data of an application component that only the Commit carries.
func (g *Group) AppEphemeral(component uint16, data []byte) *Proposal {
	return &Proposal{Type: rfc9420.ProposalAppEphemeral, AppEphemeral: &rfc9420.ComponentData{
		Component: component, Data: data,
	}}
}

// Update proposes a new encryption key for a member's own leaf.
func (g *Group) Update(leaf uint32) *Proposal { return g.UpdateAs(leaf, g.clients[leaf]) }

// UpdateAs proposes to replace the leaf of a member by a leaf of another client.
func (g *Group) UpdateAs(leaf uint32, c *Client) *Proposal {
	l := c.unsignedLeaf(rfc9420.SourceUpdate, g.random.encryptionKey(g.suite.ID))
	return &Proposal{Type: rfc9420.ProposalUpdate, Update: c.signLeaf(l, &g.context, leaf)}
}

// SetExtensions proposes other GroupContext extensions, given as the encoded contents of their vector.
func (g *Group) SetExtensions(extensions []byte) *Proposal {
	return &Proposal{Type: rfc9420.ProposalGroupContextExtensions, Extensions: extensions}
}

// PSK proposes an external pre-shared key.
func (g *Group) PSK(id []byte) *Proposal {
	return &Proposal{Type: rfc9420.ProposalPSK, PSK: reread(&rfc9420.PreSharedKeyID{
		Type: rfc9420.PSKExternal, ID: id, Nonce: g.random.bytes(g.suite.Hash.Size()),
	})}
}

// ReInit proposes to reinitialise the group under another group ID.
func (g *Group) ReInit(groupID []byte) *Proposal {
	return &Proposal{Type: rfc9420.ProposalReInit, ReInit: &rfc9420.ReInit{
		GroupID: groupID, Version: rfc9420.VersionMLS10, CipherSuite: g.suite.ID,
	}}
}

// Propose makes a member's proposal message.
func (g *Group) Propose(leaf uint32, p *Proposal) []byte {
	return g.propose(rfc9420.Sender{Type: rfc9420.SenderMember, Index: leaf}, g.clients[leaf], p)
}

// ProposeExternal makes the proposal message of an external sender. index is its index in external_senders.
func (g *Group) ProposeExternal(index uint32, c *Client, p *Proposal) []byte {
	return g.propose(rfc9420.Sender{Type: rfc9420.SenderExternal, Index: index}, c, p)
}

// ProposeSelf makes the proposal message of a client that asks to join.
func (g *Group) ProposeSelf(c *Client) []byte {
	return g.propose(rfc9420.Sender{Type: rfc9420.SenderNewMemberProposal}, c, g.Add(c))
}

func (g *Group) propose(sender rfc9420.Sender, c *Client, p *Proposal) []byte {
	return marshal(g.sign(c, &rfc9420.FramedContent{
		GroupID: g.context.GroupID, Epoch: g.context.Epoch, Sender: sender,
		ContentType: rfc9420.ContentProposal, Proposal: p,
	}, nil))
}

// sign makes a public message from its content.
func (g *Group) sign(c *Client, content *rfc9420.FramedContent, edit func(*rfc9420.PublicMessage)) *rfc9420.Message {
	m := &rfc9420.PublicMessage{AuthenticatedContent: rfc9420.AuthenticatedContent{
		WireFormat: rfc9420.WirePublicMessage, Content: *content,
	}}
	m.Signature = c.SignContent(reread(&m.AuthenticatedContent).SignContent(g.Context()))
	m.ConfirmationTag = g.random.bytes(g.suite.Hash.Size())
	m.MembershipTag = g.random.bytes(g.suite.Hash.Size())
	if edit != nil {
		edit(m)
	}
	return reread(&rfc9420.Message{Version: rfc9420.VersionMLS10, WireFormat: rfc9420.WirePublicMessage, Public: m})
}

// CommitOptions describes a Commit to make.
type CommitOptions struct {
	Sender            uint32   // the member that commits
	Joiner            *Client  // makes an external Commit; Sender is ignored
	References        [][]byte // proposal messages
	Proposals         []*Proposal
	Path              bool // add a path even when the proposals require none; an external Commit always has one
	AuthenticatedData []byte
	Tree              bool // the GroupInfo holds the tree

	// Edit changes parts before they are signed, to make a Commit that the engine must refuse.
	Edit Edit
}

// Edit changes parts of a Commit just before each part is signed or encoded. Nil leaves a part as it is.
type Edit struct {
	Leaf    func(*rfc9420.LeafNode) // the path's
	Path    func(*rfc9420.UpdatePath)
	Content func(*rfc9420.FramedContent)
	Message func(*rfc9420.PublicMessage)
	Info    func(*rfc9420.GroupInfo)
	Owner   *Client // signs the path's leaf, with its key in the leaf; the committer if nil
	NoPath  bool
}

// Commit is a Commit with its GroupInfo, its Welcome and the next epoch.
type Commit struct {
	Message   []byte
	GroupInfo []byte // of the next epoch
	Welcome   []byte // nil when the Commit adds no client
	Next      *Group
}

// Commit makes a Commit and the epoch that it starts.
func (g *Group) Commit(o CommitOptions) *Commit {
	by := g.author(&o)
	list, encoded := g.collect(o, by.sender)
	next := g.following()
	added := next.apply(list)
	commit := &rfc9420.Commit{Proposals: encoded}
	if !o.Edit.NoPath && (o.Path || o.Joiner != nil || needsPath(list)) {
		if o.Joiner != nil {
			by.leaf = next.tree.free()
		}
		next.place(by.leaf, by.owner)
		commit.Path = next.makePath(by.leaf, added, o.Edit)
	}
	content := &rfc9420.FramedContent{
		GroupID: g.context.GroupID, Epoch: g.context.Epoch, Sender: by.sender,
		AuthenticatedData: o.AuthenticatedData, ContentType: rfc9420.ContentCommit, Commit: commit,
	}
	if o.Edit.Content != nil {
		o.Edit.Content(content)
	}
	m := g.sign(by.client, content, o.Edit.Message)
	next.context.TreeHash = next.tree.treeHash(next.tree.root(), nil)
	next.context.ConfirmedTranscriptHash = g.suite.Sum(g.interim, m.Public.TranscriptInput())
	next.seal(m.Public.ConfirmationTag, by.leaf, o.Tree, o.Edit.Info)
	return &Commit{Message: marshal(m), GroupInfo: next.groupInfo, Welcome: g.welcome(list), Next: next}
}

// author describes the sender of a Commit.
type author struct {
	sender rfc9420.Sender
	leaf   uint32
	client *Client // signs the message
	owner  *Client // owns the leaf after the Commit
}

// author returns the sender that the options name. For an external Commit, it adds the ExternalInit to the options.
func (g *Group) author(o *CommitOptions) author {
	by := author{sender: rfc9420.Sender{Type: rfc9420.SenderMember, Index: o.Sender}, leaf: o.Sender, client: o.Joiner}
	if o.Joiner != nil {
		by.sender = rfc9420.Sender{Type: rfc9420.SenderNewMemberCommit}
		init := &Proposal{Type: rfc9420.ProposalExternalInit, KEMOutput: g.random.bytes(32)}
		o.Proposals = append([]*Proposal{init}, o.Proposals...)
	} else {
		by.client = g.clients[o.Sender]
	}
	by.owner = by.client
	if o.Edit.Owner != nil {
		by.owner = o.Edit.Owner
	}
	return by
}

// following makes a copy of the group for the next epoch.
func (g *Group) following() *Group {
	next := *g
	next.tree = g.tree.clone()
	next.clients = slices.Clone(g.clients)
	next.context.Epoch++
	return &next
}

// sent is a proposal and its sender.
type sent struct {
	sender   rfc9420.Sender
	proposal *Proposal
}

// collect lists the proposals of a Commit, with the references first.
func (g *Group) collect(o CommitOptions, sender rfc9420.Sender) (list []sent, encoded rfc9420.ProposalList) {
	var entries []rfc9420.ProposalOrRef
	for _, message := range o.References {
		m := new(rfc9420.Message)
		if !rfc9420.Unmarshal(message, m) || m.Public == nil {
			panic("mlstest: not a proposal message")
		}
		list = append(list, sent{m.Public.Content.Sender, m.Public.Content.Proposal})
		entries = append(entries, rfc9420.ProposalOrRef{Ref: g.suite.Ref(rfc9420.LabelProposalRef, m.Public.Raw)})
	}
	for _, p := range o.Proposals {
		list = append(list, sent{sender, p})
		entries = append(entries, rfc9420.ProposalOrRef{Proposal: p})
	}
	return list, must(rfc9420.MakeProposalList(entries...))
}

// needsPath reports whether proposals require a path (RFC 9420, section 17.4, and draft-ietf-mls-extensions-10).
func needsPath(list []sent) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(s sent) bool {
		switch s.proposal.Type {
		case rfc9420.ProposalUpdate, rfc9420.ProposalRemove, rfc9420.ProposalExternalInit,
			rfc9420.ProposalGroupContextExtensions:
			return true
		}
		return s.proposal.Type.IsSelfRemove()
	})
}

// apply applies proposals in the order of RFC 9420, section 12.3, and returns the new leaves.
func (g *Group) apply(list []sent) (added []uint32) {
	for _, s := range list {
		switch p := s.proposal; p.Type {
		case rfc9420.ProposalGroupContextExtensions:
			g.context.Extensions = p.Extensions
		case rfc9420.ProposalUpdate:
			g.tree.replace(s.sender.Index, p.Update)
		}
	}
	for _, s := range list {
		switch p := s.proposal; {
		case p.Type.IsSelfRemove():
			g.blank(s.sender.Index)
		case p.Type == rfc9420.ProposalRemove:
			g.blank(p.Remove)
		case p.AppDataUpdate != nil:
			g.context.Extensions = applyAppData(g.context.Extensions, p.AppDataUpdate)
		}
	}
	g.tree.truncate()
	g.clients = g.clients[:min(len(g.clients), g.tree.width())]
	for _, s := range list {
		if p := s.proposal; p.Type == rfc9420.ProposalAdd {
			leaf := g.tree.add(&p.Add.Leaf)
			g.place(leaf, g.known[string(p.Add.Leaf.SignatureKey)])
			added = append(added, leaf)
		}
	}
	return added
}

func (g *Group) blank(leaf uint32) {
	g.tree.replace(leaf, nil)
	g.clients[leaf] = nil
}

// applyAppData applies an AppDataUpdate. In these groups the update is the component's new data.
func applyAppData(e rfc9420.Extensions, u *rfc9420.AppDataUpdate) rfc9420.Extensions {
	var list rfc9420.ComponentList
	if data, found := e.Find(rfc9420.ExtensionAppDataDictionary); found && !rfc9420.Unmarshal(data, &list) {
		panic("mlstest: not an app_data_dictionary")
	}
	list = slices.DeleteFunc(list, func(c rfc9420.ComponentData) bool { return c.Component == u.Component })
	if u.Operation == rfc9420.AppDataSet {
		i, _ := slices.BinarySearchFunc(list, u.Component, func(c rfc9420.ComponentData, id uint16) int {
			return cmp.Compare(c.Component, id)
		})
		list = slices.Insert(list, i, rfc9420.ComponentData{Component: u.Component, Data: u.Update})
	}
	return must(e.Replace(rfc9420.ExtensionAppDataDictionary, marshal(&list)))
}

// place sets the client at a leaf.
func (g *Group) place(leaf uint32, c *Client) {
	for len(g.clients) <= int(leaf) {
		g.clients = append(g.clients, nil)
	}
	g.clients[leaf] = c
}

// makePath makes the path of a member and puts it into the tree, which already has the proposals applied.
func (g *Group) makePath(own uint32, added []uint32, edit Edit) *rfc9420.UpdatePath {
	path := new(rfc9420.UpdatePath)
	_, copath := g.tree.filteredPath(own)
	for _, x := range copath {
		to := slices.DeleteFunc(
			g.tree.resolution(x), func(x int) bool { return x%2 == 0 && slices.Contains(added, uint32(x/2)) },
		)
		path.Nodes = append(path.Nodes, rfc9420.UpdatePathNode{
			EncryptionKey: g.random.encryptionKey(g.suite.ID),
			Ciphertexts:   g.ciphertexts(len(to)),
		})
	}
	if edit.Path != nil {
		edit.Path(path)
	}
	owner := g.clients[own]
	l := owner.unsignedLeaf(rfc9420.SourceCommit, g.random.encryptionKey(g.suite.ID))
	l.ParentHash = g.tree.setPath(own, path.Nodes)
	if edit.Leaf != nil {
		edit.Leaf(l)
	}
	path.Leaf = *owner.signLeaf(l, &g.context, own)
	g.tree.set(2*int(own), node{leaf: &path.Leaf})
	return path
}

// ciphertexts encodes n random HPKE ciphertexts.
func (g *Group) ciphertexts(n int) []byte {
	var b cryptobyte.Builder
	for range n {
		c := g.ciphertext()
		c.Encode(&b)
	}
	return b.BytesOrPanic()
}

func (g *Group) ciphertext() rfc9420.HPKECiphertext {
	return rfc9420.HPKECiphertext{KEMOutput: g.random.bytes(32), Ciphertext: g.random.bytes(48)}
}

// Welcome makes a Welcome for clients.
func (g *Group) Welcome(clients ...*Client) []byte {
	var b cryptobyte.Builder
	for _, c := range clients {
		secrets := rfc9420.EncryptedGroupSecrets{
			NewMember: g.suite.Ref(rfc9420.LabelKeyPackageRef, c.keyPackage.Raw),
			Secrets:   g.ciphertext(),
		}
		secrets.Encode(&b)
	}
	return marshal(&rfc9420.Message{
		Version:    rfc9420.VersionMLS10,
		WireFormat: rfc9420.WireWelcome,
		Welcome: &rfc9420.Welcome{
			CipherSuite: g.suite.ID, Secrets: b.BytesOrPanic(), EncryptedGroupInfo: g.random.bytes(300),
		},
	})
}

// welcome makes the Welcome for the clients that a list of proposals adds.
func (g *Group) welcome(list []sent) []byte {
	var clients []*Client
	for _, s := range list {
		if p := s.proposal; p.Type == rfc9420.ProposalAdd {
			clients = append(clients, g.known[string(p.Add.Leaf.SignatureKey)])
		}
	}
	if len(clients) == 0 {
		return nil
	}
	return g.Welcome(clients...)
}
