package adminapi

import (
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Evidence shows stored evidence to operators. At is in milliseconds since 1970.
type Evidence struct {
	GroupID     api.GroupID      `json:"group_id"`
	MigrationID string           `json:"migration_id,omitempty"`
	Kind        string           `json:"kind"`
	Data        spec.Base64Bytes `json:"data"`
	KeyID       string           `json:"key_id,omitempty"`
	At          int64            `json:"at"`
}

func viewEvidence(e *storage.Evidence) Evidence {
	v := Evidence{GroupID: e.GroupID, Kind: string(e.Kind), Data: e.Data, KeyID: e.KeyID, At: e.At.UnixMilli()}
	if e.Migration != (mimiport.MigrationID{}) {
		v.MigrationID = e.Migration.String()
	}
	return v
}
