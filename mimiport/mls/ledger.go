package mls

import "github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"

// ledger is the keys and the credentials of a group while leaves go and come.
type ledger struct {
	checker
	keys keys
	gone map[device]bool // whose leaves have gone, under which key
}

// device is a credential and the signature key beside it.
type device struct{ credential, key keyID }

func deviceOf(l *rfc9420.LeafNode) device {
	return device{credentialID(&l.Credential), idOf(l.SignatureKey)}
}

func (c checker) newLedger(k keys) ledger { return ledger{c, k, make(map[device]bool)} }

// drop takes a leaf out.
func (b *ledger) drop(raw []byte) {
	l := decodeLeaf(raw)
	d := deviceOf(&l)
	b.gone[d] = true
	b.keys.signature = b.keys.signature.without(d.key)
	b.keys.encryption = b.keys.encryption.without(idOf(l.EncryptionKey))
	b.keys.credentials = b.keys.credentials.without(d.credential)
}

// insertLeaf puts a new leaf's keys in.
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

// insertDevice puts the credential of a leaf in that is no leaf's successor.
func (b *ledger) insertDevice(l *rfc9420.LeafNode) error {
	id := credentialID(&l.Credential)
	if err := b.require(b.keys.credentials.count(id) == 0, ruleDeviceUnique); err != nil {
		return err
	}
	b.keys.credentials = b.keys.credentials.with(id)
	return nil
}

// insertSuccessor puts the credential of a leaf in that has the credential of one that was dropped.
func (b *ledger) insertSuccessor(l *rfc9420.LeafNode) {
	b.keys.credentials = b.keys.credentials.with(credentialID(&l.Credential))
}
