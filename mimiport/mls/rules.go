package mls

import (
	"fmt"
	"io"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// rule is one rule of RFC 9420 or of another document that a Delivery Service can check. A name that starts with
// ValSem is the number of the same check in the documentation of OpenMLS.
type rule struct {
	name    string
	kind    mimiport.Kind
	section string // a section of RFC 9420, or the name of another document
	text    string // describes input that breaks the rule
}

// The other documents that rules come from.
const (
	extensionsDraft = "draft-ietf-mls-extensions-10"
	combinerDraft   = "draft-ietf-mls-combiner"
)

func valid(name, section, text string) *rule { return &rule{name, mimiport.KindInvalid, section, text} }

func signature(name, section, text string) *rule {
	return &rule{name, mimiport.KindBadSignature, section, text}
}

// The rules of framing.
var (
	ruleClosed      = valid("group-closed", "12.1.5", "the group was closed by a ReInit")
	ruleGroupID     = &rule{"ValSem002", mimiport.KindUnknownGroup, "6", "the message is of another group"}
	ruleEpoch       = &rule{"ValSem003", mimiport.KindWrongEpoch, "6", "the message is of another epoch"}
	ruleSender      = valid("ValSem004", "6.1", "the sender's leaf is blank or out of range")
	ruleApplication = valid("ValSem005", "6", "application data must be encrypted")
	ruleSafeAAD     = valid("safe-aad", extensionsDraft,
		"the authenticated data does not begin with the SafeAAD that the group requires")
	ruleMembershipTag   = valid("ValSem007", "6.2", "the membership tag is missing or not as long as the suite's hash")
	ruleConfirmationTag = valid("ValSem009", "6.1", "the confirmation tag is missing or not as long as the suite's hash")
	ruleSignature       = signature("ValSem010", "6.1", "the sender's signature does not verify")
	ruleSenderType      = valid("sender-type", "12.1.8", "a sender of this type must not send this")
	ruleExternalSender  = valid("external-sender", "12.1.8.1", "no such entry in external_senders")
	ruleEpochRange      = &rule{"epoch-range", mimiport.KindUnsupported, "8.1", "epochs from 2^63 on are not supported"}
)

// The rules of proposals.
var (
	ruleSignatureKeyUnique  = valid("ValSem101", "7.3", "two members would have the same signature key")
	ruleInitKeyUnique       = valid("ValSem102", "12.2", "two added key packages have the same init key")
	ruleEncryptionKeyUnique = valid("ValSem103", "7.3", "an added leaf's encryption key is already in the tree")
	ruleInitKeyDistinct     = valid("ValSem104", "10.1", "a key package's init key is its leaf's encryption key")
	ruleKeyPackageSuite     = valid("ValSem105", "10.1", "a key package is for another version or cipher suite")
	ruleRequiredAdd         = valid("ValSem106", "7.3", "an added leaf lacks a required capability")
	ruleRemoveUnique        = valid("ValSem107", "12.2", "two proposals update or remove the same leaf")
	ruleRemoveMember        = valid("ValSem108", "12.1.3", "the removed leaf is blank or out of range")
	ruleRequiredUpdate      = valid("ValSem109", "7.3", "an updated leaf lacks a required capability")
	ruleUpdateKeyUnique     = valid("ValSem110", "12.1.2", "an updated leaf's encryption key is already in the tree")
	ruleUpdateSelf          = valid("ValSem111", "12.2", "a Commit covers an Update of its own sender")
	ruleUpdateSender        = valid("ValSem112", "12.1.2", "an Update must come from a member")
	ruleProposalSupported   = valid("ValSem113", "12.2", "a member does not support the proposal's type")
	ruleKeyPackageSignature = signature("key-package-signature", "10.1", "a key package's signature does not verify")
	rulePSKNonce            = valid("ValSem401", "8.4", "a PSK's nonce is not as long as the suite's hash")
	rulePSKUsage            = valid("ValSem402", "12.1.4", "a PSK for reinitialization or branching is proposed")
	rulePSKUnique           = valid("ValSem403", "12.2", "two proposals name the same PSK")
	ruleReInitAlone         = valid("reinit-alone", "12.2", "a ReInit must be the only proposal")
	ruleReInitVersion       = valid("reinit-version", "12.1.5", "a ReInit to an earlier protocol version")
	ruleExternalInit        = valid("external-init", "12.2", "an ExternalInit outside an external Commit")
	ruleSelfRemoveValue     = valid("self-remove-value", extensionsDraft, "a SelfRemove by value")
	rulePSKReference        = valid("psk-reference", "12.1.4",
		"a PSK proposal by reference: a member without the PSK could not commit")
	ruleLifetimeOrder     = valid("lifetime-order", "7.2", "a key package's lifetime does not end after it begins")
	ruleLifetime          = valid("lifetime", "7.2", "a key package is not yet valid, or has expired")
	ruleAppDataExtensions = valid("app-data-extensions", extensionsDraft,
		"a GroupContextExtensions changes the app_data_dictionary of a group that requires AppDataUpdate")
	ruleAppDataRemove = valid("app-data-remove", extensionsDraft, "an AppDataUpdate removes data that is not there")
	ruleAppDataOnce   = valid("app-data-once", extensionsDraft,
		"a Commit both removes and changes the data of a component")
	ruleAppDataResult = valid("app-data-result", extensionsDraft,
		"the app_data_dictionary does not change as the AppDataUpdates say")
	ruleTogether = valid("proposals-together", "12.2",
		"no Commit can have the proposal together with all pending ones")
	ruleNoCommitter  = valid("no-committer", "12.4", "no member would be left to commit all pending proposals")
	ruleSuccessor    = valid("successor", "5.3.1", "a leaf has another credential than the leaf it replaces")
	ruleDeviceUnique = valid("device-unique", "5.3.1", "two leaves would have one credential")
	ruleReference    = valid("proposal-reference", "12.4.2", "a reference to no proposal of this epoch")
)

// The rules of Commits.
var (
	ruleSelfRemove   = valid("ValSem200", "12.2", "a Commit removes its own sender")
	rulePathRequired = valid("ValSem201", "12.4", "the proposals require a path and there is none")
	rulePathLength   = valid("ValSem202", "7.5",
		"the number of the path's nodes or ciphertexts does not fit the tree")
	rulePathLeafKeyUnique = valid("ValSem206", "12.4.2", "the path leaf's encryption key is already in the tree")
	rulePathKeyUnique     = valid("ValSem207", "12.4.2", "an encryption key of the path is already in the tree")
	ruleExtensionsOnce    = valid("ValSem208", "12.2", "more than one GroupContextExtensions")
	ruleExtensionsSupport = valid("ValSem209", "12.1.7",
		"a member does not support a group extension or a required capability")
	rulePathParentHash = valid("path-parent-hash", "7.9", "the path leaf's parent hash is not the computed one")
)

// The rules of external Commits.
var (
	ruleExternalInitMissing = valid("ValSem240", "12.2", "an external Commit without ExternalInit")
	ruleExternalInitOnce    = valid("ValSem241", "12.2", "an external Commit with more than one ExternalInit")
	ruleExternalProposals   = valid("ValSem242", "12.2",
		"an external Commit with a proposal by value that it may not cover")
	ruleExternalRemove    = valid("ValSem243", "12.2", "an external Commit with more than one Remove")
	ruleExternalReference = valid("ValSem244", "12.4.3.2",
		"an external Commit with a proposal by reference that is no SelfRemove")
	ruleExternalPath      = valid("ValSem245", "12.4.3.2", "an external Commit without a path")
	ruleExternalSignature = signature("ValSem246", "6.1",
		"the external Commit's signature does not verify with the path's leaf")
	ruleNewMemberAddSignature = signature("ValSem247", "6.1", "the joiner's signature does not verify with the added leaf")
)

// The rules of leaves and trees.
var (
	ruleCombiner = &rule{"apq-info", mimiport.KindUnsupported, combinerDraft,
		"a group of the post-quantum combiner: its other group would have to move with it"}
	ruleTrailingBlank   = valid("ValSem300", "12.4.3.3", "the tree ends in a blank node")
	ruleTreeSize        = valid("tree-size", "7.7", "the tree's right half has no member")
	ruleTreeHash        = valid("tree-hash", "12.4.3.1", "the tree's hash is not that of the group context")
	ruleUnmergedOrder   = valid("unmerged-order", "7.1", "unmerged leaves are not in ascending order")
	ruleUnmergedRange   = valid("unmerged-range", "12.4.3.1", "an unmerged leaf is not below its node")
	ruleUnmergedBlank   = valid("unmerged-blank", "12.4.3.1", "an unmerged leaf is blank")
	ruleUnmergedBetween = valid("unmerged-between", "12.4.3.1",
		"a node between a parent and its unmerged leaf does not list the leaf")
	ruleParentHash        = valid("parent-hash", "7.9.2", "a parent node's hash is in no node below it")
	ruleTreeKeyUnique     = valid("tree-encryption-key-unique", "12.4.3.1", "an encryption key is in two nodes")
	ruleTreeSigKeyUnique  = valid("tree-signature-key-unique", "7.3", "a signature key is in two leaves")
	ruleEncryptionKey     = valid("encryption-key", "5.1.1", "an encryption key is not one of the cipher suite")
	ruleLeafSignature     = signature("leaf-signature", "7.3", "a leaf's signature does not verify")
	ruleLeafSource        = valid("leaf-source", "7.3", "a leaf has a source that its place does not allow")
	ruleLeafExtensions    = valid("leaf-extensions", "7.3", "a leaf has an extension that its capabilities do not list")
	ruleLeafCredential    = valid("leaf-credential", "7.3", "a member does not support another's credential type")
	ruleLeafRequired      = valid("leaf-required", "7.3", "a leaf lacks a required capability")
	ruleExtensionsUnique  = valid("extensions-unique", "13.4", "two extensions of one type in one list")
	ruleExtensionEncoding = valid("extension-encoding", "11.1", "an extension of the group does not decode")
)

// The rules of GroupInfo and Welcome.
var (
	ruleInfoTree    = valid("group-info-tree", "12.4.3", "the tree in the GroupInfo is not the group's")
	ruleExternalPub = valid("external-pub", "12.4.3.2",
		"external_pub does not hold a public key of the cipher suite")
	ruleInfoSigner          = valid("group-info-signer", "12.4.3.1", "the signer's leaf is blank or out of range")
	ruleInfoSignature       = signature("group-info-signature", "12.4.3.1", "the GroupInfo's signature does not verify")
	ruleInfoContext         = valid("group-info-context", "12.4.3", "the group context is not the computed one")
	ruleInfoConfirmationTag = valid("group-info-confirmation-tag", "12.4.3", "the confirmation tag is not the Commit's")
	ruleWelcomeMembers      = valid("welcome-members", "12.4.3.1", "the Welcomes do not cover exactly the added members")
)

// checker enforces rules. A test masks a rule to show that no other rule refuses the same bytes.
type checker struct {
	masked map[*rule]bool
	random io.Reader // for verifying leaves in batches; nil to verify them one by one
}

// require returns the error of a rule unless ok, or unless the rule is masked.
func (c checker) require(ok bool, r *rule) error {
	if ok || c.masked[r] {
		return nil
	}
	return refuse(r)
}

// refuse returns the error of a broken rule.
func refuse(r *rule) error {
	source := r.section
	if source != extensionsDraft && source != combinerDraft {
		source = "RFC 9420, section " + source
	}
	return &mimiport.Error{Kind: r.kind, Info: mimiport.Info{Rule: r.name}, Err: fmt.Errorf("%s (%s)", r.text, source)}
}
