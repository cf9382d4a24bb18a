package mls

import (
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// rule is one thing that RFC 9420 demands and a Delivery Service can see. Names that start with ValSem are the numbers under
// which OpenMLS documents the same check.
type rule struct {
	name string
	kind mimiport.Kind
	text string // what is wrong where it is broken
}

func valid(name, text string) *rule { return &rule{name, mimiport.KindInvalid, text} }

func signature(name, text string) *rule { return &rule{name, mimiport.KindBadSignature, text} }

// The rules of framing (RFC 9420, section 6).
var (
	ruleGroupID         = &rule{"ValSem002", mimiport.KindUnknownGroup, "the message is of another group"}
	ruleEpoch           = &rule{"ValSem003", mimiport.KindWrongEpoch, "the message is of another epoch"}
	ruleSender          = valid("ValSem004", "the sender's leaf is blank or out of range")
	ruleApplication     = valid("ValSem005", "application data must be encrypted")
	ruleMembershipTag   = valid("ValSem007", "the membership tag is missing or not as long as the suite's hash")
	ruleConfirmationTag = valid("ValSem009", "the confirmation tag is missing or not as long as the suite's hash")
	ruleSignature       = signature("ValSem010", "the sender's signature does not verify")
	ruleSenderType      = valid("sender-type", "a sender of this type must not send this")
	ruleEpochRange      = &rule{"epoch-range", mimiport.KindUnsupported, "epochs from 2^63 on are not supported"}
	ruleExternalSender  = valid("external-sender", "no such entry in external_senders")
)

// The rules of proposals (RFC 9420, sections 7.3, 10.1, 12.1 and 12.2).
var (
	ruleSignatureKeyUnique  = valid("ValSem101", "two members would have the same signature key")
	ruleInitKeyUnique       = valid("ValSem102", "two added key packages have the same init key")
	ruleEncryptionKeyUnique = valid("ValSem103", "an added leaf's encryption key is already in the tree")
	ruleInitKeyDistinct     = valid("ValSem104", "a key package's init key is its leaf's encryption key")
	ruleKeyPackageSuite     = valid("ValSem105", "a key package is for another version or cipher suite")
	ruleRequiredAdd         = valid("ValSem106", "an added leaf lacks a required capability")
	ruleRemoveUnique        = valid("ValSem107", "two proposals update or remove the same leaf")
	ruleRemoveMember        = valid("ValSem108", "the removed leaf is blank or out of range")
	ruleRequiredUpdate      = valid("ValSem109", "an updated leaf lacks a required capability")
	ruleUpdateKeyUnique     = valid("ValSem110", "an updated leaf's encryption key is already in the tree")
	ruleUpdateSelf          = valid("ValSem111", "a Commit covers an Update of its own sender")
	ruleUpdateSender        = valid("ValSem112", "an Update must come from a member")
	ruleProposalSupported   = valid("ValSem113", "a member does not support the proposal's type")
	ruleKeyPackageSignature = signature("key-package-signature", "a key package's signature does not verify")
	rulePSKNonce            = valid("ValSem401", "a PSK's nonce is not as long as the suite's hash")
	rulePSKUsage            = valid("ValSem402", "a PSK for reinitialization or branching is proposed")
	rulePSKUnique           = valid("ValSem403", "two proposals name the same PSK")
	ruleReInitAlone         = valid("reinit-alone", "a ReInit must be the only proposal")
	ruleReInitVersion       = valid("reinit-version", "a ReInit to an earlier protocol version")
	ruleExternalInit        = valid("external-init", "an ExternalInit outside an external Commit")
	ruleReference           = valid("proposal-reference", "a reference to no proposal of this epoch")
)

// The rules of Commits (RFC 9420, sections 7.5, 12.4 and 12.4.2).
var (
	ruleSelfRemove        = valid("ValSem200", "a Commit removes its own sender")
	rulePathRequired      = valid("ValSem201", "the proposals require a path and there is none")
	rulePathLength        = valid("ValSem202", "the path's nodes or ciphertexts are not as many as the tree's shape wants")
	rulePathLeafKeyUnique = valid("ValSem206", "the path leaf's encryption key is already in the tree")
	rulePathKeyUnique     = valid("ValSem207", "an encryption key of the path is already in the tree")
	ruleExtensionsOnce    = valid("ValSem208", "more than one GroupContextExtensions")
	ruleExtensionsSupport = valid("ValSem209", "a member does not support a group extension or a required capability")
	rulePathParentHash    = valid("path-parent-hash", "the path leaf's parent hash is not the computed one")
)

// The rules of external Commits (RFC 9420, section 12.4.3.2).
var (
	ruleExternalInitMissing   = valid("ValSem240", "an external Commit without ExternalInit")
	ruleExternalInitOnce      = valid("ValSem241", "an external Commit with more than one ExternalInit")
	ruleExternalProposals     = valid("ValSem242", "an external Commit with a proposal other than ExternalInit, Remove and PSK")
	ruleExternalRemove        = valid("ValSem243", "an external Commit with more than one Remove")
	ruleExternalReference     = valid("ValSem244", "an external Commit with a proposal by reference")
	ruleExternalPath          = valid("ValSem245", "an external Commit without a path")
	ruleExternalSignature     = signature("ValSem246", "the external Commit's signature does not verify with the path's leaf")
	ruleNewMemberAddSignature = signature("ValSem247", "the joiner's signature does not verify with the added leaf")
)

// The rules of leaves and trees (RFC 9420, sections 7.3, 7.9 and 12.4.3.1).
var (
	ruleTrailingBlank     = valid("ValSem300", "the tree ends in a blank node")
	ruleTreeSize          = valid("tree-size", "the tree's right half has no member")
	ruleTreeHash          = valid("tree-hash", "the tree's hash is not that of the group context")
	ruleUnmergedOrder     = valid("unmerged-order", "unmerged leaves are not in ascending order")
	ruleUnmergedRange     = valid("unmerged-range", "an unmerged leaf is not below its node")
	ruleUnmergedBlank     = valid("unmerged-blank", "an unmerged leaf is blank")
	ruleUnmergedBetween   = valid("unmerged-between", "a node between does not list an unmerged leaf")
	ruleParentHash        = valid("parent-hash", "a parent node's hash is in no node below it")
	ruleTreeKeyUnique     = valid("tree-encryption-key-unique", "an encryption key is in two nodes")
	ruleTreeSigKeyUnique  = valid("tree-signature-key-unique", "a signature key is in two leaves")
	ruleEncryptionKey     = valid("encryption-key", "an encryption key is not one of the cipher suite")
	ruleLeafSignature     = signature("leaf-signature", "a leaf's signature does not verify")
	ruleLeafSource        = valid("leaf-source", "a leaf's source does not fit where it is")
	ruleLeafExtensions    = valid("leaf-extensions", "a leaf has an extension that its capabilities do not list")
	ruleLeafCredential    = valid("leaf-credential", "a member does not support another's credential type")
	ruleLeafRequired      = valid("leaf-required", "a leaf lacks a required capability")
	ruleExtensionsUnique  = valid("extensions-unique", "two extensions of one type in one list")
	ruleExtensionEncoding = valid("extension-encoding", "an extension of the group does not decode")
)

// The rules of GroupInfo and Welcome (RFC 9420, sections 12.4.3 and 12.4.3.1).
var (
	ruleInfoTree            = valid("group-info-tree", "the tree must not be in the GroupInfo of a Commit, nor be given twice")
	ruleInfoSigner          = valid("group-info-signer", "the signer's leaf is blank or out of range")
	ruleInfoSignature       = signature("group-info-signature", "the GroupInfo's signature does not verify")
	ruleInfoContext         = valid("group-info-context", "the group context is not the computed one")
	ruleInfoConfirmationTag = valid("group-info-confirmation-tag", "the confirmation tag is not the Commit's")
	ruleWelcomeMembers      = valid("welcome-members", "the Welcomes do not cover exactly the added members")
)

// checker enforces rules. Tests mask some, to show that no other rule refuses the same bytes.
type checker struct{ masked map[*rule]bool }

// require refuses where a rule is broken.
func (c checker) require(ok bool, r *rule) error {
	if ok || c.masked[r] {
		return nil
	}
	return refuse(r)
}

// refuse is the error for a broken rule.
func refuse(r *rule) error {
	return &mimiport.Error{Kind: r.kind, Info: mimiport.Info{Rule: r.name}, Err: errors.New(r.text)}
}
