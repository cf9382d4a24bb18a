package mls

import "github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"

// ledger tracks the keys and the credentials of a group while proposals remove and add leaves.
type ledger struct {
	checker
	keys keys
	gone map[device]bool // of the leaves that were taken out
}

// device is the credential and the signature key of one leaf.
type device struct{ credential, key keyID }

func deviceOf(l *rfc9420.LeafNode) device {
	return device{credentialID(&l.Credential), idOf(l.SignatureKey)}
}

func (c checker) newLedger(k keys) ledger { return ledger{c, k, make(map[device]bool)} }

// drop takes the keys and the credential of a leaf out.
func (b *ledger) drop(raw []byte) {
	l := decodeLeaf(raw)
	d := deviceOf(&l)
	b.gone[d] = true
	b.keys.signature = b.keys.signature.without(d.key)
	b.keys.encryption = b.keys.encryption.without(idOf(l.EncryptionKey))
	b.keys.credentials = b.keys.credentials.without(d.credential)
}

// insertLeaf puts the keys of a new leaf in. broken is the rule to report when the tree has the encryption key already.
func (b *ledger) insertLeaf(l *rfc9420.LeafNode, broken *rule) error {
	if err := b.insertSignatureKey(l.SignatureKey); err != nil {
		return err
	}
	return b.insertEncryptionKey(l.EncryptionKey, broken)
}

func (b *ledger) insertSignatureKey(key []byte) error {
	id := idOf(key)
	if err := b.require(!b.keys.signature.has(id), ruleSignatureKeyUnique); err != nil {
		return err
	}
	b.keys.signature = b.keys.signature.with(id)
	return nil
}

func (b *ledger) insertEncryptionKey(key []byte, broken *rule) error {
	id := idOf(key)
	if err := b.require(!b.keys.encryption.has(id), broken); err != nil {
		return err
	}
	b.keys.encryption = b.keys.encryption.with(id)
	return nil
}

// insertDevice puts in the credential of a leaf that replaces no other leaf. No other leaf may have the credential.
func (b *ledger) insertDevice(l *rfc9420.LeafNode) error {
	id := credentialID(&l.Credential)
	if err := b.require(b.keys.credentials.count(id) == 0, ruleDeviceUnique); err != nil {
		return err
	}
	b.keys.credentials = b.keys.credentials.with(id)
	return nil
}

// insertSuccessor puts in the credential of a leaf that replaces a dropped leaf of the same credential.
func (b *ledger) insertSuccessor(l *rfc9420.LeafNode) {
	b.keys.credentials = b.keys.credentials.with(credentialID(&l.Credential))
}
