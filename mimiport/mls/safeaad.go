package mls

import (
	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/internal/rfc9420"
)

// componentSafeAAD is the component of an app_data_dictionary that requires a SafeAAD (draft-ietf-mls-extensions-10).
const componentSafeAAD uint16 = 2

// readSafeAAD reads the SafeAAD at the start of authenticated data.
func readSafeAAD(data []byte) (items rfc9420.ComponentList, ok bool) {
	s := cryptobyte.String(data)
	ok = items.Decode(&s)
	return items, ok
}

// MigrationAAD returns the encoded MigrationCommitAAD in the authenticated data of a group's message (profile, section
// 5). In a group with SafeAAD it is the item of mimiport.MigrationComponent, in any other group all of the data.
// MigrationAAD does not decode it.
func MigrationAAD(g Context, authenticatedData []byte) (aad []byte, found bool) {
	if !g.SafeAAD() {
		return authenticatedData, true
	}
	items, ok := readSafeAAD(authenticatedData)
	if !ok {
		return nil, false
	}
	return items.Find(mimiport.MigrationComponent)
}

// AddMigrationAAD makes the authenticated data of a group's migration Commit from an encoded MigrationCommitAAD.
func AddMigrationAAD(g Context, aad []byte) ([]byte, error) {
	if !g.SafeAAD() {
		return aad, nil
	}
	return rfc9420.Marshal(&rfc9420.ComponentList{{Component: mimiport.MigrationComponent, Data: aad}})
}
