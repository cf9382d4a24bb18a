package adminapi

import (
	"context"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
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
	Report      *api.Report      `json:"report,omitempty"` // the content of a report
}

func viewEvidence(e *storage.Evidence) Evidence {
	v := Evidence{GroupID: e.GroupID, Kind: string(e.Kind), Data: e.Data, KeyID: e.KeyID, At: e.At.UnixMilli()}
	if e.Migration != (mimiport.MigrationID{}) {
		v.MigrationID = e.Migration.String()
	}
	return v
}

// listAllEvidence lists the evidence about all groups, with the reports of members.
func (a *admin) listAllEvidence(ctx context.Context, r *edge.Request) (any, error) {
	p, err := newPage[Evidence](r)
	if err != nil {
		return nil, err
	}
	f := storage.EvidenceFilter{}
	if f.Kinds, err = choices(r, "kind", storage.EvidenceKinds); err != nil {
		return nil, err
	}
	if f.GroupID, err = bytesParam(r, "group_id"); err != nil {
		return nil, err
	}
	after, err := evidenceParam(r)
	if err != nil {
		return nil, err
	}
	found, err := a.svc.ListEvidence(ctx, f, after, p.Limit)
	if err != nil {
		return nil, err
	}
	shown := make([]Evidence, len(found))
	for i := range found {
		if shown[i], err = viewFound(&found[i]); err != nil {
			return nil, err
		}
	}
	p = p.fill(shown, func(Evidence) string { return cursor(found[len(found)-1].Key()) })
	return p, nil
}

// viewFound shows evidence or a report.
func viewFound(e *storage.Evidence) (Evidence, error) {
	v := viewEvidence(e)
	if e.Kind != storage.EvidenceReport {
		return v, nil
	}
	v.MigrationID = "" // a report has another key in its place
	return v, plainjson.Unmarshal(e.Data, &v.Report)
}

// cursor is the key of evidence as the value of "after": the migration, the length of the kind in one byte, the kind,
// and the group.
func cursor(k storage.EvidenceKey) string {
	b := append(k.Migration[:], byte(len(k.Kind)))
	return mimiport.IDText(append(append(b, k.Kind...), k.GroupID...))
}

// evidenceParam is the inverse of cursor.
func evidenceParam(r *edge.Request) (k storage.EvidenceKey, err error) {
	data, err := bytesParam(r, "after")
	if err != nil || data == nil {
		return k, err
	}
	n := copy(k.Migration[:], data)
	rest := data[n:]
	if len(rest) == 0 || len(rest[1:]) < int(rest[0]) {
		return k, badQuery("after: not the value of \"next\" of another page")
	}
	kind, group := rest[1:1+rest[0]], rest[1+rest[0]:]
	k.Kind, k.GroupID = storage.EvidenceKind(kind), string(group)
	return k, nil
}
