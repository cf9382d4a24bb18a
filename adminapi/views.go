package adminapi

import (
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// Group is a stored group as operators see it. Times are milliseconds since 1970.
type Group struct {
	GroupID     spec.Base64Bytes `json:"group_id"`
	Term        uint64           `json:"term"`
	State       string           `json:"state"`
	Server      string           `json:"server"`
	RoomID      string           `json:"room_id"`
	Creator     string           `json:"creator"`
	Protocol    string           `json:"protocol,omitempty"`
	CipherSuite uint16           `json:"cipher_suite,omitempty"`
	Epoch       uint64           `json:"epoch"`
	NextSeq     uint64           `json:"next_seq"`
	MigrationID string           `json:"migration_id,omitempty"`
	CreatedAt   int64            `json:"created_at"`
}

// Migration is a stored migration as operators see it, with what the two servers have signed.
type Migration struct {
	MigrationID  string               `json:"migration_id"`
	Role         string               `json:"role"`
	State        string               `json:"state"`
	GroupID      spec.Base64Bytes     `json:"group_id"`
	RoomID       string               `json:"room_id"`
	Term         uint64               `json:"term"`
	Source       string               `json:"source"`
	Target       string               `json:"target"`
	User         string               `json:"user"`
	Epoch        uint64               `json:"epoch"`
	ExpiresAt    int64                `json:"expires_at,omitempty"`
	DecideBy     int64                `json:"decide_by,omitempty"`
	ContentHash  spec.Base64Bytes     `json:"migration_content_hash,omitempty"`
	Response     *delivery.SignedInfo `json:"migration_response,omitempty"`
	Complete     *delivery.SignedInfo `json:"target_migration_complete,omitempty"`
	Confirmation *delivery.SignedInfo `json:"migration_confirmation,omitempty"`
	Abort        *delivery.SignedInfo `json:"migration_abort,omitempty"`
	Reason       string               `json:"reason,omitempty"`
}

func viewGroup(g *delivery.Group) Group {
	v := Group{
		GroupID: g.ID, Term: g.Term, State: string(g.State), Server: g.Server, RoomID: g.RoomID, Creator: g.Creator,
		Protocol: g.Protocol, CipherSuite: g.CipherSuite, Epoch: g.Epoch, NextSeq: g.NextSeq, CreatedAt: millis(g.CreatedAt),
	}
	if g.Migration != (mimiport.MigrationID{}) {
		v.MigrationID = g.Migration.String()
	}
	return v
}

func viewMigration(m *migration.Migration) Migration {
	return Migration{
		MigrationID: m.ID.String(), Role: string(m.Role), State: string(m.State), GroupID: m.GroupID, RoomID: m.RoomID, Term: m.Term,
		Source: m.Source, Target: m.Target, User: m.User, Epoch: m.Epoch,
		ExpiresAt: millis(m.ExpiresAt), DecideBy: millis(m.DecideBy), ContentHash: m.ContentHash,
		Response: signed(m.Response), Complete: signed(m.Complete), Confirmation: signed(m.Confirmation), Abort: signed(m.Abort),
		Reason: m.Reason,
	}
}

func signed(s migration.Signed) *delivery.SignedInfo {
	if len(s.Message) == 0 {
		return nil
	}
	return &delivery.SignedInfo{Message: s.Message, KeyID: s.KeyID}
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
