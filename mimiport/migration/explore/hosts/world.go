package hosts

import (
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// These are the sizes of a world. A scenario may use less.
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

// step is a step of a lineage, by its index in a scenario's tree. It also stands for the lineage that ends with the
// step. The root is the lineage without steps: A has the group. Migrations come first.
type step uint8

const root step = 0

// possible is a step that may happen in a scenario.
type possible struct {
	kind   mimiport.StepKind // the root has none
	before step              // the lineage that the step goes on from
	host   server            // the server that gets the group
	last   bool              // operators take the step only when no server has the group
}

// signs is the set of the signed messages of a step and of the term that the step begins. None of them is ever lost:
// anybody may show any of them to any server at any time.
type signs uint16

const (
	offered      signs = 1 << iota // MigrationResponse, by the target
	content                        // MigrationContent, by the source
	voted                          // MigrationVote, by the target
	taken                          // MigrationConfirmation, by the source, or LineageClaim
	aborted                        // MigrationAbort, by the source
	receipt                        // CommitReceipt for the first Commit of the term
	otherReceipt                   // CommitReceipt for another Commit in its place
	whole                          // of a claim: its epoch is the latest of the former term
	inOutage                       // of a claim: signed while the former host was out of service
	untold                         // of a reclaim: its server has yet to show it to the former host
)

// log is the log of a term at its host.
type log uint8

const (
	empty log = iota
	theFirst
	another // the host has forgotten the first, and has accepted another in its place
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

// owned says whether a server with such a row takes itself for the host.
func (r *row) owned() bool { return r.load().Owned() }

// hosts says whether a server with such a row has the group and has not closed it.
func (r *row) hosts() bool { return r.state == active || r.state == frozen }

// has says whether a server with such a row has the group, closed or not.
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

// outage is the stage of a server's time out of service.
type outage uint8

const (
	inService outage = iota
	out
	outForDay
	back         // out for less than a day
	backAfterDay // out for a day
	lost         // for good
)

func (o outage) up() bool { return o != out && o != outForDay && o != lost }

// backup is a copy of a server's database. Later it says that the server was restored from the copy.
type backup struct {
	data
	state uint8 // 0: no copy yet, 1: a copy, 2: restored
	of    server
}

// forgot says whether a server was restored from a backup.
func (w *world) forgot(s server) bool { return w.backup.state == 2 && w.backup.of == s }

// here returns the row that a server answers for: its row of the highest term that is not dropped, nil for none.
func (w *world) here(s server) *row {
	for t := range w.data[s].rows {
		r := &w.data[s].rows[maxTerms-1-t]
		if r.state != none && r.state != dropped {
			return r
		}
	}
	return nil
}

// row is the row of a server in the last term of a lineage.
func (m *model) row(w *world, s server, i step) *row { return &w.data[s].rows[m.term(i)] }

// someBytes stand for any signed message and any lineage.
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

// tree has the possible steps of a scenario, and so the lineages that they make.
type tree []possible

func (t tree) term(i step) int {
	n := 0
	for ; i != root; i = t[i].before {
		n++
	}
	return n
}

// upTo is the part of a lineage up to a term, or the whole lineage if it is shorter.
func (t tree) upTo(i step, term int) step {
	for n := t.term(i); n > term; n-- {
		i = t[i].before
	}
	return i
}

// begins says whether lineage i is the beginning of lineage in.
func (t tree) begins(i, in step) bool { return t.upTo(in, t.term(i)) == i }

// holds says whether each step of a lineage has its confirmation or claim.
func (t tree) holds(w *world, i step) bool {
	for ; i != root; i = t[i].before {
		if w.signed[i]&taken == 0 {
			return false
		}
	}
	return true
}

// parting returns the steps with which two lineages part, if they part.
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
