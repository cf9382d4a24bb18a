package framing

import (
	"slices"

	gomls "github.com/cisco/go-mls"
	syntax "github.com/cisco/go-tls-syntax"
)

// unsigned returns an encoding without the signature at its end.
func unsigned(body []byte) []byte { return body[:len(body)-2-SignatureSize] }

// PlaintextContent returns the content that the signature of an encoded MLSPlaintext covers. context is the group's
// encoded GroupContext, body the MLSPlaintext.
func PlaintextContent(context, body []byte) []byte { return slices.Concat(context, unsigned(body)) }

// KeyPackageContent returns the content that the signature of a KeyPackage covers.
func KeyPackageContent(k *gomls.KeyPackage) ([]byte, error) {
	body, err := syntax.Marshal(k)
	if err != nil {
		return nil, err
	}
	return unsigned(body), nil
}

// GroupInfoContent returns the content that the signature of a GroupInfo covers: everything except its extensions.
func GroupInfoContent(info *gomls.GroupInfo) ([]byte, error) {
	return syntax.Marshal(struct {
		GroupID                 []byte `tls:"head=1"`
		Epoch                   gomls.Epoch
		Tree                    gomls.TreeKEMPublicKey
		ConfirmedTranscriptHash []byte `tls:"head=1"`
		InterimTranscriptHash   []byte `tls:"head=1"`
		Confirmation            []byte `tls:"head=1"`
		SignerIndex             gomls.LeafIndex
	}{
		info.GroupID, info.Epoch, info.Tree, info.ConfirmedTranscriptHash, info.InterimTranscriptHash,
		info.Confirmation, info.SignerIndex,
	})
}

// ConfirmedTranscriptHash returns the confirmed transcript hash of the epoch that a Commit starts. interim is the
// interim transcript hash of the epoch before. The hash covers neither the authenticated data nor the signature of the
// Commit.
func ConfirmedTranscriptHash(suite gomls.CipherSuite, interim []byte, pt *gomls.MLSPlaintext) ([]byte, error) {
	content, err := syntax.Marshal(struct {
		GroupID     []byte `tls:"head=1"`
		Epoch       gomls.Epoch
		Sender      gomls.Sender
		Commit      gomls.Commit
		ContentType gomls.ContentType
	}{pt.GroupID, pt.Epoch, pt.Sender, pt.Content.Commit.Commit, pt.Content.Type()})
	return suite.Digest(slices.Concat(interim, content)), err
}

// InterimTranscriptHash returns the interim transcript hash of the epoch that a Commit starts. confirmed is the
// confirmed transcript hash of that epoch.
func InterimTranscriptHash(suite gomls.CipherSuite, confirmed []byte, pt *gomls.MLSPlaintext) ([]byte, error) {
	authentication, err := syntax.Marshal(struct {
		Confirmation gomls.Confirmation
		Signature    gomls.Signature
	}{pt.Content.Commit.Confirmation, pt.Signature})
	return suite.Digest(slices.Concat(confirmed, authentication)), err
}
