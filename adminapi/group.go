package adminapi

import (
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Group shows a stored group to operators. CreatedAt is in milliseconds since 1970.
type Group struct {
	GroupID     api.GroupID `json:"group_id"`
	Term        uint64      `json:"term"`
	State       string      `json:"state"`
	Server      string      `json:"server"`
	RoomID      string      `json:"room_id"`
	Creator     string      `json:"creator"`
	Protocol    string      `json:"protocol,omitempty"`
	CipherSuite uint16      `json:"cipher_suite,omitempty"`
	Epoch       uint64      `json:"epoch"`
	NextSeq     uint64      `json:"next_seq"`
	MigrationID string      `json:"migration_id,omitempty"`
	CreatedAt   int64       `json:"created_at"`
}

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

func view(g *storage.Group) Group {
	v := Group{
		GroupID: g.ID, Term: g.Term, State: string(g.State), Server: g.Server, RoomID: g.RoomID, Creator: g.Creator,
		Protocol: g.Protocol, CipherSuite: g.CipherSuite, Epoch: g.Epoch, NextSeq: g.NextSeq,
		CreatedAt: g.CreatedAt.UnixMilli(),
	}
	if g.Migration != (mimiport.MigrationID{}) {
		v.MigrationID = g.Migration.String()
	}
	return v
}
