package hosts

import (
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// The sizes that a world has room for. A scenario says how much of it is used.
const (
	servers  = 3
	maxSteps = 24
	maxMoves = 4
	maxTerms = 5
)

// server is A, B or C.
type server uint8

const (
	a server = iota
	b
	c
)

// step is a step of a lineage, by its place in a scenario's tree, and the lineage that ends with it. The root is the
// lineage without steps: A has the group. Migrations come first.
type step uint8

const root step = 0

// possible is a step that a scenario has room for.
type possible struct {
	kind   mimiport.StepKind // none of the root
	before step              // what the step goes on from
	host   server            // who has the group then
	last   bool              // operators take it when no server has the group, and at no other time
}

// signs is a set of what has been signed of a step, and of the term that it begins. Nothing of it is ever lost: any
// of it may be shown to any server at any time.
type signs uint16

const (
	offered      signs = 1 << iota // MigrationResponse, by the target
	content                        // MigrationContent, by the source
	voted                          // MigrationVote, by the target
	taken                          // MigrationConfirmation, by the source, or LineageClaim
	aborted                        // MigrationAbort, by the source
	receipt                        // CommitReceipt for the first Commit of the term
	otherReceipt                   // CommitReceipt for another Commit in its place
	whole                          // of a claim: its epoch is the latest of the term before
	inOutage                       // of a claim: it was signed while the host before was out of service
	untold                         // of a reclaim: its server has yet to show it to the one that had the group
)

// log is what the host of a term has accepted in it.
type log uint8

const (
	empty log = iota
	theFirst
	another // in the place of the first, which the host has forgotten
)

// row is a server's row of the group in one term.
type row struct {
	state groupState
	by    step // the migration that froze, moved, staged or dropped it; root for none
	at    step // the lineage of the row
	log   log
}

// groupState is an index of groupStates.
type groupState uint8

const (
	none groupState = iota
	active
	frozen
	stopped
	moved
	staged
	dropped
	closed
	ended
)

var groupStates = [...]migration.GroupState{
	"", migration.GroupActive, migration.GroupFrozen, migration.GroupStopped, migration.GroupMoved,
	migration.GroupStaged, migration.GroupDropped, migration.GroupClosed, migration.GroupEnded,
}

// owned says whether a server with such a row holds itself for the host.
func (r *row) owned() bool { return r.load().Owned() }

// hosts says whether a server with such a row has the group and takes its part in what follows.
func (r *row) hosts() bool { return r.state == active || r.state == frozen }

// has says whether the group is at a server with such a row, closed or not.
func (r *row) has() bool { return r.hosts() || r.load().Closed() }

func (r *row) load() migration.Group {
	return migration.Group{State: groupStates[r.state], Migration: r.by.id()}
}

func (r *row) save(g migration.Group) {
	r.state, r.by = groupState(slices.Index(groupStates[:], g.State)), step(g.Migration[0])
}

// id is the id of a migration, zero for the root.
func (i step) id() mimiport.MigrationID { return mimiport.MigrationID{byte(i)} }

// record is one side's record of a migration.
type record struct {
	state   uint8 // an index of states
	voted   bool  // T has signed the vote
	aborted bool  // the abort is in it
}

var states = [...]migration.State{
	"", migration.Frozen, migration.Decided, migration.Moved, migration.Aborted,
	migration.Offered, migration.Staged, migration.Active, migration.Dropped,
}

func (r *record) is(s migration.State) bool { return states[r.state] == s }

// move is a migration: the records of its source and of its target.
type move struct{ source, target record }

// data is a server's database.
type data struct {
	rows    [maxTerms]row // by term
	records [maxMoves]move
	kept    bool // evidence
}

// world is one state of everything there is.
type world struct {
	data   [servers]data
	signed [maxSteps]signs
	named  step // that the room's pointer names, root for none
	outage [servers]outage
	backup backup
}

// outage is how far a server's time out of service has come.
type outage uint8

const (
	inService outage = iota
	out
	outForDay
	back         // it was out for less than a day
	backAfterDay // it was out for a day
	lost         // for good
)

func (o outage) up() bool { return o != out && o != outForDay && o != lost }

// backup is a copy of a server's database, and later that the server was put back to it.
type backup struct {
	data
	state uint8 // 0 for none yet, 1 for a copy, 2 when it has been used
	of    server
}

// forgot says whether a server has been put back to a backup.
func (w *world) forgot(s server) bool { return w.backup.state == 2 && w.backup.of == s }

// here is the row by which a server answers for the group: of the highest term that is not dropped; nil for none.
func (w *world) here(s server) *row {
	for t := range w.data[s].rows {
		r := &w.data[s].rows[maxTerms-1-t]
		if r.state != none && r.state != dropped {
			return r
		}
	}
	return nil
}

// at is the row of a server in the term that a lineage ends with.
func (m *model) row(w *world, s server, i step) *row { return &w.data[s].rows[m.term(i)] }

// someBytes stand for whatever is signed or shown.
var someBytes = []byte("bytes")

var (
	before   = time.Unix(1, 0)
	deadline = time.Unix(2, 0)
)

func (r *record) load(i step) migration.Migration {
	m := migration.Migration{ID: i.id(), State: states[r.state], DecideBy: deadline, ExpiresAt: deadline}
	switch m.State {
	case "":
		return migration.Migration{DecideBy: deadline, ExpiresAt: deadline, ID: i.id()}
	case migration.Frozen, migration.Decided, migration.Moved, migration.Aborted:
		m.Role, m.ContentHash, m.CommitHash = migration.Source, someBytes, someBytes
	default:
		m.Role = migration.Target
	}
	if r.voted {
		m.ContentHash, m.Complete.Message = someBytes, someBytes
	}
	if r.aborted {
		m.Abort.Message = someBytes
	}
	return m
}

func (r *record) save(m *migration.Migration) {
	r.state = uint8(slices.Index(states[:], m.State))
	r.voted, r.aborted = m.Complete.Message != nil, m.Abort.Message != nil
}

// tree is the steps that a scenario has room for, and the lineages that they make.
type tree []possible

func (t tree) term(i step) int {
	n := 0
	for ; i != root; i = t[i].before {
		n++
	}
	return n
}

// upTo is the beginning of a lineage up to a term, or all of it.
func (t tree) upTo(i step, term int) step {
	for n := t.term(i); n > term; n-- {
		i = t[i].before
	}
	return i
}

// begins says whether one lineage is the beginning of the other.
func (t tree) begins(i, in step) bool { return t.upTo(in, t.term(i)) == i }

// holds says whether each step of a lineage is signed as it has to be.
func (t tree) holds(w *world, i step) bool {
	for ; i != root; i = t[i].before {
		if w.signed[i]&taken == 0 {
			return false
		}
	}
	return true
}

// parting gives the steps with which two lineages part, if they do.
func (t tree) parting(i, j step) (x, y step, parts bool) {
	n := min(t.term(i), t.term(j))
	for x, y = t.upTo(i, n), t.upTo(j, n); x != y; x, y = t[x].before, t[y].before {
		if t[x].before == t[y].before {
			return x, y, true
		}
	}
	return 0, 0, false
}

func (t tree) claim(i step) bool { return i != root && t[i].kind != mimiport.StepMigration }
