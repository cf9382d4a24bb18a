// Package proof says whether a decision is the one on an offer, and whether the chain of a group's hosts holds
// (profile, section 3). Nothing outside this package checks either.
package proof

import (
	"bytes"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Decision decodes a MigrationConfirmation. It returns a KindBadMessage error for one that does not decode, and a
// KindInvalid error for one that is not the decision on the offer: it must name the offer's target, nonce and group. It
// looks at no signature.
func Decision(offer *mimiport.MigrationResponse, confirmation []byte) (*mimiport.MigrationConfirmation, error) {
	c, err := mimiport.UnmarshalMigrationConfirmation(confirmation)
	if err != nil {
		return nil, err
	}
	r := &offer.Request
	if c.DomainName != r.TargetDomain || c.Nonce != offer.Nonce || !bytes.Equal(c.GroupID, r.GroupID) {
		return nil, mimiport.Errorf("confirm", mimiport.KindInvalid, "the MigrationConfirmation is for another migration")
	}
	return c, nil
}

// Errorf makes an error about a group's lineage: KindInvalid, rule "lineage".
func Errorf(groupID []byte, format string, args ...any) error {
	err := mimiport.Errorf("check lineage", mimiport.KindInvalid, format, args...)
	err.Group, err.Info.Rule = groupID, "lineage"
	return err
}
