// Package draft09 implements the engine of package mls for groups of github.com/cisco/go-mls. The protocol of these
// groups is draft-ietf-mls-protocol-09 with some changes. docs/mls-draft09.md describes the supported groups, the
// encoding of messages, and the checks that the engine cannot make.
//
// The engine uses the tree operations and hashes of go-mls, so it computes the same as the members. It decodes and
// checks all input from clients before go-mls gets it.
package draft09

import (
	"bytes"

	gomls "github.com/cisco/go-mls"
	syntax "github.com/cisco/go-tls-syntax"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
)

// Protocol is the protocol name of go-mls groups.
const Protocol = "mls-draft09"

type engine struct{}

// New makes the engine for go-mls groups.
func New() mls.Engine { return engine{} }

func (engine) Protocol() string { return Protocol }

func (engine) Parse(message []byte) (out *mls.Message, err error) {
	defer guard("parse message", nil, &err)
	m, err := framing.Decode(message)
	if err != nil {
		return nil, err
	}
	switch {
	case m.Plaintext != nil:
		return parseHandshake(m.Plaintext)
	case m.Ciphertext != nil:
		c := m.Ciphertext
		if c.ContentType != gomls.ContentTypeApplication {
			return nil, errPrivate
		}
		return &mls.Message{
			Kind: mls.KindApplication, GroupID: c.GroupID, Epoch: uint64(c.Epoch), AuthenticatedData: c.AuthenticatedData,
		}, nil
	case m.GroupInfo != nil:
		return &mls.Message{Kind: mls.KindGroupInfo, GroupID: m.GroupInfo.GroupID, Epoch: uint64(m.GroupInfo.Epoch)}, nil
	case m.Welcome != nil:
		return &mls.Message{Kind: mls.KindWelcome}, nil
	}
	return &mls.Message{Kind: mls.KindKeyPackage}, nil
}

func parseHandshake(pt *gomls.MLSPlaintext) (*mls.Message, error) {
	out := &mls.Message{
		GroupID: pt.GroupID, Epoch: uint64(pt.Epoch), AuthenticatedData: pt.AuthenticatedData,
		// go-mls numbers the types as mls does
		Sender: mls.Sender{Type: mls.SenderType(pt.Sender.Type), Index: pt.Sender.Sender},
	}
	switch {
	case pt.Content.Proposal != nil:
		out.Kind = mls.KindProposal
	case pt.Content.Commit != nil:
		out.Kind = mls.KindCommit
	default:
		return nil, errApplication
	}
	return out, nil
}

func (engine) Open(groupInfo, tree []byte) (out mls.Group, err error) {
	defer guard("open group", nil, &err)
	g, err := open(groupInfo, tree)
	if err != nil {
		return nil, err
	}
	return g, nil
}

func open(message, encodedTree []byte) (*group, error) {
	m, err := framing.Decode(message)
	if err != nil {
		return nil, err
	}
	info := m.GroupInfo
	if info == nil {
		return nil, framing.ErrMessage
	}
	if err := checkShape(info.Tree.Nodes); err != nil {
		return nil, err
	}
	signer := leafAt(info.Tree.Nodes, uint32(info.SignerIndex))
	if signer == nil {
		return nil, errInfoSigner
	}
	g := &group{
		suite: signer.CipherSuite, id: info.GroupID, epoch: uint64(info.Epoch), tree: info.Tree,
		confirmed: info.ConfirmedTranscriptHash, interim: info.InterimTranscriptHash, confirmation: info.Confirmation,
	}
	g.tree.Suite = g.suite
	if err := g.checkTranscript(); err != nil {
		return nil, err
	}
	if err := g.complete(); err != nil {
		return nil, err
	}
	if len(encodedTree) > 0 && !bytes.Equal(encodedTree, g.encodedTree) {
		return nil, errTwoTrees
	}
	if err := g.takeInfo(message, info); err != nil {
		return nil, err
	}
	return g, g.checkLeaves()
}

func (engine) CheckWelcomes(commit *mls.Effects, welcomes [][]byte) (err error) {
	defer guard("check welcomes", nil, &err)
	waiting := make(map[string]bool)
	for i := range commit.Proposals {
		if p := &commit.Proposals[i]; p.Type == mls.ProposalAdd {
			waiting[string(p.KeyPackageRef)] = true
		}
	}
	for _, message := range welcomes {
		m, err := framing.Decode(message)
		switch {
		case err != nil:
			return err
		case m.Welcome == nil:
			return framing.ErrMessage
		}
		for i := range m.Welcome.Secrets {
			ref := string(m.Welcome.Secrets[i].KeyPackageHash)
			if !waiting[ref] {
				return errWelcome
			}
			delete(waiting, ref)
		}
	}
	if len(waiting) > 0 {
		return errWelcome
	}
	return nil
}

// keyPackageRef returns the reference by which a Welcome addresses a key package.
func keyPackageRef(k *gomls.KeyPackage) ([]byte, error) {
	encoded, err := syntax.Marshal(k)
	return k.CipherSuite.Digest(encoded), err
}
