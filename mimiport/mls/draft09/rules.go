package draft09

import (
	"errors"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

func broken(kind mimiport.Kind, rule, text string) *mimiport.Error {
	return &mimiport.Error{Kind: kind, Info: mimiport.Info{Rule: rule}, Err: errors.New(text)}
}

func invalid(rule, text string) *mimiport.Error { return broken(mimiport.KindInvalid, rule, text) }

func signature(rule, text string) *mimiport.Error {
	return broken(mimiport.KindBadSignature, rule, text)
}

// The errors of well-formed input. A rule that RFC 9420 also has is named as in package mls.
var (
	errGroupID         = broken(mimiport.KindUnknownGroup, "ValSem002", "the message is of another group")
	errEpoch           = broken(mimiport.KindWrongEpoch, "ValSem003", "the message is of another epoch")
	errMemberSignature = signature("", "the signature does not verify")
	errSender          = invalid("ValSem004", "the sender's leaf is blank or out of range")
	errApplication     = invalid("ValSem005", "application data must be encrypted")
	errSignature       = signature("ValSem010", "the sender's signature does not verify")
	errSenderType      = invalid("sender-type", "only members may send handshake messages")
	errEpochRange      = broken(mimiport.KindUnsupported, "epoch-range", "epochs from 2^63 on are not supported")
	errPrivate         = broken(mimiport.KindUnsupported, "", "handshake messages must not be encrypted")

	errSignatureKeyUnique  = invalid("ValSem101", "two members would have the same signature key")
	errEncryptionKeyUnique = invalid("ValSem103", "two nodes would have the same encryption key")
	errSuite               = invalid("ValSem105", "a key package is for another cipher suite")
	errRequired            = invalid("ValSem106", "a key package lacks a mandatory extension or its own version or suite")
	errExtensions          = invalid("extensions-unique", "a key package repeats an extension, or has a malformed one")
	errLeafSignature       = signature("leaf-signature", "a key package's signature does not verify")
	errRemove              = invalid("ValSem108", "the removed leaf is blank or out of range")
	errUpdateKey           = invalid("ValSem110", "an updated leaf's encryption key is already in the tree")
	errUpdateSelf          = invalid("ValSem111", "a Commit covers an Update of its own sender")
	errTogether            = invalid(
		"proposals-together", "no Commit can have the proposal together with all pending ones",
	)
	errNoCommitter   = invalid("no-committer", "no member would be left to commit all pending proposals")
	errLifetimeOrder = invalid("lifetime-order", "a key package's lifetime does not end after it begins")
	errSuccessor     = invalid("successor", "a leaf has another identity than the leaf it replaces")
	errDevice        = invalid("device-unique", "two leaves would have one identity")
	errReference     = invalid(
		"proposal-reference", "a reference is repeated, of another type or to no proposal of this epoch",
	)

	errSelfRemove     = invalid("ValSem200", "a Commit removes its own sender")
	errPathRequired   = invalid("ValSem201", "the proposals require a path")
	errPathLength     = invalid("ValSem202", "the path does not fit the tree")
	errPathKey        = invalid("ValSem206", "a key of the path is already in the tree, or twice in the path")
	errPathParentHash = invalid("path-parent-hash", "the parent hash of the path's leaf is wrong")
	errLeaves         = broken(mimiport.KindTooLarge, "", "go-mls cannot commit in a group of more than 128 leaves")

	errTree = broken(
		mimiport.KindBadMessage, "tree-shape", "the tree's nodes do not alternate: leaf, parent, …, leaf",
	)
	errUnmerged = invalid(
		"unmerged-leaves", "an unmerged leaf is out of order, not below its node, or not listed in a node between",
	)
	errTwoTrees        = invalid("ratchet-tree", "the tree is not the one in the GroupInfo")
	errGroupIDLength   = invalid("group-id", "a group id has 1 to 255 bytes")
	errTranscript      = invalid("transcript-hash", "a transcript hash is not as long as the suite's hash")
	errGroupExtensions = broken(
		mimiport.KindUnsupported, "group-extensions", "go-mls does not sign or keep a group's extensions",
	)
	errInfoSigner    = invalid("group-info-signer", "the signer's leaf is blank or out of range")
	errInfoContext   = invalid("group-info-context", "the GroupInfo does not describe the epoch that the Commit starts")
	errInfoSignature = signature("group-info-signature", "the GroupInfo's signature does not verify")
	errWelcome       = invalid("welcome-members", "the Welcomes are not for the clients that the Commit adds")
)

// guard is deferred in a method. It adds the operation and the group to the error that the method returns. When go-mls
// panics in spite of all checks, guard returns a KindInvalid error instead.
func guard(op string, group []byte, err *error) {
	if fault := recover(); fault != nil {
		*err = &mimiport.Error{Kind: mimiport.KindInvalid, Err: fmt.Errorf("go-mls: %v", fault)}
	}
	if *err == nil {
		return
	}
	out := &mimiport.Error{Op: op, Group: group, Err: *err}
	var cause *mimiport.Error
	if errors.As(*err, &cause) {
		out.Kind, out.Info, out.Err = cause.Kind, cause.Info, cause.Err
	}
	*err = out
}
