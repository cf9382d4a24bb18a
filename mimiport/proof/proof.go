// Package proof checks whether a decision is for an offer, and verifies the lineage of a group (profile, section 3). No
// other package checks either.
package proof

import (
	"bytes"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Decision decodes a MigrationConfirmation. It returns a KindBadMessage error if the message does not decode. It
// returns a KindInvalid error unless the message names the offer's target, nonce and group. It does not verify the
// signature.
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

// Errorf returns an error about a group's lineage: KindInvalid, rule "lineage".
func Errorf(groupID []byte, format string, args ...any) error {
	err := mimiport.Errorf("check lineage", mimiport.KindInvalid, format, args...)
	err.Group, err.Info.Rule = groupID, "lineage"
	return err
}
