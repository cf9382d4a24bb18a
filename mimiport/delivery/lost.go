package delivery

import (
	"context"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// RequireTargetLost fails with KindConflict unless the target to which a group moved is lost: it does not answer, or it
// has forgotten the migration, and the operator says so as well. The error says what the target answered. A group that
// has not moved away needs no word: Reclaim decides. The operator can take a group from a target that answers, such as
// a hostile one.
func (s operator) RequireTargetLost(ctx context.Context, id []byte, word api.Lost) error {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return err
	}
	if g.State != migration.GroupMoved || g.Migration == (mimiport.MigrationID{}) {
		return nil
	}
	m, err := s.record(ctx, g.Migration)
	if err != nil {
		return err
	}
	return s.inquire(ctx, g, m.Target, m.ID).require("reclaim", g.ID, "target_is_lost", word)
}

// RequireHostLost fails with KindConflict unless the last host in the lineage of a group is lost: it does not answer,
// and the operator says so as well. A host that answers may have lost its data all the same: then the operator says so
// too. This server needs no word about itself. Recover decides about a lineage that does not parse.
func (s operator) RequireHostLost(ctx context.Context, id, lineage []byte, word api.Lost) error {
	p, err := s.Policy(ctx)
	if err != nil || !p.Recover {
		return err
	}
	l, err := mimiport.UnmarshalLineage(lineage)
	if err != nil {
		return nil
	}
	hosts, err := proof.Hosts(l)
	if err != nil {
		return nil
	}
	host := hosts[len(hosts)-1]
	if s.IsLocal(host) {
		return nil
	}
	// No server knows this migration. One that answers says so.
	found := s.inquire(ctx, &storage.Group{Server: s.Server}, host, mimiport.MigrationID{})
	found.forgotten = false
	return found.require("recover", id, "host_is_lost", word)
}

// probed says what a server answered when it was asked whether it is there.
type probed struct {
	answers   bool
	forgotten bool   // it answers, and does not know the migration
	what      string // for people
}

// inquire asks a server for a migration in the name of the group's server here.
func (s *core) inquire(ctx context.Context, g *storage.Group, server string, id mimiport.MigrationID) probed {
	status, err := s.Sender.AskStatus(ctx, g.Server, server, id)
	switch kind := mimiport.KindOf(err); {
	case err == nil:
		return probed{answers: true, what: fmt.Sprintf("%s answers, and the migration is %s there", server, status.State)}
	case kind == mimiport.KindUnknownMigration:
		return probed{answers: true, forgotten: true, what: server + " answers, and does not know the migration"}
	case kind == mimiport.KindUnrecognized:
		return probed{answers: true, what: server + " answers, and does not run this module now"}
	case kind == mimiport.KindQuota:
		return probed{answers: true, what: fmt.Sprintf("%s answers: %v", server, err)}
	default:
		return probed{what: fmt.Sprintf("%s cannot be asked (%v)", server, err)}
	}
}

// require fails unless the operator's word fits what was found.
func (p probed) require(op string, id []byte, field string, word api.Lost) error {
	lost := !p.answers || p.forgotten
	switch {
	case word.Said && (lost || word.AlthoughItAnswers):
		return nil
	case lost:
		return conflict(op, id, fmt.Errorf(`%s: if it is lost for good, say so with {"%s": true}`, p.what, field))
	}
	return conflict(op, id, fmt.Errorf("%s: a server that is there is not lost. To take the group from it all the same, "+
		`say {"%s": true, "although_it_answers": true}`, p.what, field))
}

func conflict(op string, id []byte, why error) error {
	return &mimiport.Error{Op: op, Kind: mimiport.KindConflict, Group: id, Err: why}
}
