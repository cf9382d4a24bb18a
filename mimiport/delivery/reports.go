package delivery

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// reporting stores members' reports of Commits that they cannot process.
type reporting struct{ *core }

// A report only calls the operator's attention. No decision of the server depends on it (profile, section 9). The
// server stores it as a piece of evidence.
const (
	maxReports  = 100            // reports of one user about one group
	keptForThem = 24 * time.Hour // the time that the server keeps the epoch before a reported Commit
)

// Report implements API. The caller must be a member. A repeated report changes nothing.
func (s reporting) Report(
	ctx context.Context, c api.Caller, id []byte, req *api.ReportRequest,
) (*api.ReportResponse, error) {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	err = s.withKnown(ctx, id, g.RoomID, func(h *registry.Held, k *known) error { return s.report(ctx, h, k, c, req) })
	if err != nil {
		return nil, err
	}
	return new(api.ReportResponse), nil
}

func (s reporting) report(
	ctx context.Context, h *registry.Held, k *known, c api.Caller, req *api.ReportRequest,
) error {
	g, err := s.heldFor(ctx, h, k, c)
	if err != nil {
		return err
	}
	if err := s.requireReporter(ctx, h, c, g); err != nil {
		return err
	}
	commit, err := s.reportable(ctx, g, req.Seq)
	if err != nil {
		return err
	}
	r := &api.Report{
		Term: g.Term, Seq: commit.Seq, Epoch: commit.Epoch, UserID: c.UserID, Reason: mimiport.Clip(req.Reason),
		At: s.Now().UnixMilli(),
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	s.Log.Warn("a member cannot process a Commit", "group_id", mimiport.IDText(g.ID), "term", g.Term, "epoch", r.Epoch,
		"user_id", c.UserID)
	return s.apply(ctx, &storage.Change{Evidence: []storage.Evidence{
		{GroupID: g.ID, Migration: reportID(r), Kind: storage.EvidenceReport, Data: data, At: s.Now()},
	}})
}

// reportID tells the reports about one group apart. Each user has one report about each Commit.
func reportID(r *api.Report) mimiport.MigrationID {
	b := binary.BigEndian.AppendUint64(nil, r.Term)
	b = binary.BigEndian.AppendUint64(b, r.Seq)
	return sha256.Sum256(append(b, r.UserID...))
}

// requireReporter fails unless the caller has a leaf in the group and has made fewer than maxReports reports.
func (s reporting) requireReporter(ctx context.Context, h *registry.Held, c api.Caller, g *storage.Group) error {
	l, err := h.Live(ctx, g)
	if err != nil {
		return err
	}
	if !l.Roster.Has(c.UserID) {
		return mimiport.Errorf("report", mimiport.KindForbidden, "%s is not in the group", c.UserID)
	}
	reports, err := s.reports(ctx, g.ID)
	if err != nil {
		return err
	}
	own := 0
	for i := range reports {
		if reports[i].UserID == c.UserID {
			own++
		}
	}
	if own >= maxReports {
		return forbidden("reports", "%s has reported %d Commits of the group", c.UserID, own)
	}
	return nil
}

// reportable returns the Commit with the number seq in the log of the present term.
func (s reporting) reportable(ctx context.Context, g *storage.Group, seq uint64) (*storage.Entry, error) {
	entries, err := s.Store.Entries(ctx, g.Key(), seq, 1)
	if err != nil {
		return nil, err
	}
	if len(entries) == 0 || entries[0].Seq != seq || entries[0].Kind != storage.EntryCommit {
		return nil, &mimiport.Error{
			Op: "report", Kind: mimiport.KindInvalid, Group: g.ID, Err: errors.New("the log has no Commit with this number"),
		}
	}
	return &entries[0], nil
}

// AdminReports lists the members' reports about a group, oldest first, or returns a KindUnknownGroup error.
func (s reporting) AdminReports(ctx context.Context, id []byte) ([]api.Report, error) {
	if _, err := s.groups.Group(ctx, id); err != nil {
		return nil, err
	}
	return s.reports(ctx, id)
}

func (s *core) reports(ctx context.Context, id []byte) (reports []api.Report, err error) {
	kept, err := s.Store.Evidence(ctx, id)
	if err != nil {
		return nil, err
	}
	for i := range kept {
		if kept[i].Kind != storage.EvidenceReport {
			continue
		}
		var r api.Report
		if err := plainjson.Unmarshal(kept[i].Data, &r); err != nil {
			return nil, err
		}
		reports = append(reports, r)
	}
	return reports, nil
}

// keptFor returns the epoch before which the server needs no snapshot of a group. This is the epoch of the last
// snapshot. If a member has reported a Commit lately, it is the epoch of a snapshot from which the server can derive
// the epoch before the Commit.
func (s *core) keptFor(ctx context.Context, key storage.GroupKey, last uint64) (uint64, error) {
	reports, err := s.reports(ctx, key.ID)
	if err != nil {
		return 0, err
	}
	since := s.Now().Add(-keptForThem).UnixMilli()
	for i := range reports {
		r := &reports[i]
		if r.Term != key.Term || r.At < since || r.Epoch >= last {
			continue
		}
		snap, err := s.Store.Snapshot(ctx, key, r.Epoch)
		if errors.Is(err, storage.ErrNotFound) {
			continue // the report is too old
		}
		if err != nil {
			return 0, err
		}
		last = min(last, snap.Epoch)
	}
	return last, nil
}
