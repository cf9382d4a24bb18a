package explore

import (
	"math/bits"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// The sizes that a world has room for; Bounds say how much of it is searched.
const (
	maxTerms = 3
	members  = 2
	maxSlots = maxTerms * members
)

// server is A (0), where the group begins, or B (1).
type server uint8

// slot is a migration: the one that a member may ask for towards a term.
type slot uint8

func (i slot) term() int      { return int(i)/members + 1 }
func (i slot) member() int    { return int(i) % members }
func (i slot) source() server { return server(i.term()-1) % 2 }
func (i slot) target() server { return server(i.term()) % 2 }

// mirror is the slot of the other member.
func (i slot) mirror() slot { return i ^ 1 }

// history is a sequence of Commits, four bits for each, the first lowest. Its length is the epoch. A member's own
// Commit is 1 + the member, a migration's is firstMove + its slot.
type history uint32

const firstMove = 1 + members

func ownCommit(member int) history { return history(1 + member) }
func moveCommit(i slot) history    { return firstMove + history(i) }

func (h history) epoch() int             { return (bits.Len32(uint32(h)) + 3) / 4 }
func (h history) at(n int) history       { return h >> (4 * n) & 0xf }
func (h history) prefix(n int) history   { return h & (1<<(4*n) - 1) }
func (h history) add(c history) history  { return h | c<<(4*h.epoch()) }
func (h history) begins(in history) bool { return in.prefix(h.epoch()) == h }

func (h history) has(c history) bool {
	for ; h != 0; h >>= 4 {
		if h&0xf == c {
			return true
		}
	}
	return false
}

// term is how often the group has moved.
func (h history) term() int {
	n := 0
	for ; h != 0; h >>= 4 {
		if h&0xf >= firstMove {
			n++
		}
	}
	return n
}

// mirror is the history with the two members exchanged.
func (h history) mirror() history {
	var m history
	for n := range h.epoch() {
		c := h.at(n)
		if c >= firstMove {
			c = moveCommit(slot(c - firstMove).mirror())
		} else {
			c = ownCommit(1) + ownCommit(0) - c
		}
		m |= c << (4 * n)
	}
	return m
}

// groupState is an index of groupStates.
type groupState uint8

const (
	groupNone groupState = iota
	groupActive
	groupFrozen
	groupMoved
	groupStaged
	groupDropped
)

// groupStates are the states of a group; zero is no group.
var groupStates = [...]migration.GroupState{
	"", migration.GroupActive, migration.GroupFrozen, migration.GroupMoved,
	migration.GroupStaged, migration.GroupDropped,
}

// group is the row of the group in one term, at the server that hosts it then. Only of a staged or dropped one is the
// history not accepted.
type group struct {
	state   groupState
	move    slot // that froze, moved, staged or dropped it
	history history
}

// load gives the row as the machine knows it.
func (g *group) load() migration.Group {
	if g.state <= groupActive {
		return migration.Group{State: groupStates[g.state]}
	}
	return migration.Group{State: groupStates[g.state], Migration: g.move.id()}
}

// save takes over what the machine has made of the row. By which migration a group once came is not kept.
func (g *group) save(to migration.Group) {
	g.state, g.move = groupState(slices.Index(groupStates[:], to.State)), 0
	if g.state > groupActive {
		g.move = slot(to.Migration[0] - 1)
	}
}

// id is the id of a migration.
func (i slot) id() mimiport.MigrationID { return mimiport.MigrationID{1 + byte(i)} }

// states are the states of a record; zero is no record.
var states = [...]migration.State{
	"", migration.Frozen, migration.Decided, migration.Moved, migration.Aborted,
	migration.Offered, migration.Staged, migration.Active, migration.Dropped,
}

// state is an index of states.
type state uint8

const (
	none state = iota
	frozen
	decided
	moved
	aborted
	offered
	staged
	active
	dropped
)

// messages is a set of messages about one migration. Who sends and who takes a message follows from its kind.
type messages uint16

const (
	vote         messages = 1 << iota // TargetMigrationComplete, T to S
	confirmation                      // MigrationConfirmation, S to T
	abort                             // MigrationAbort, S to T
	offer                             // MigrationResponse, T to member
	initiation                        // MigrationInit with the Commit, member to S
	content                           // MigrationContent, S to T
	refusal                           // a typed final refusal, T to S
	ack                               // the answer to a confirmation, T to S
	abortAck                          // the answer to an abort, T to S
)

// rows are the outbox rows of one record.
type rows uint8

const (
	rowContent  rows = 1 << iota // S: hand T the content
	rowOutcome                   // S: hand T the confirmation or the abort
	rowDeadline                  // S: decide_by; T: the expiry of the offer
	rowAsk                       // T: ask S how it ended
	rowPurge                     // forget the group of that term: after all that is modelled, so that no state keeps it
)

// rowBit is a kind of row, as far as it is modelled.
func rowBit(kind migration.RowKind) rows {
	switch kind {
	case migration.RowContent:
		return rowContent
	case migration.RowConfirmation, migration.RowAbort:
		return rowOutcome
	case migration.RowDeadline:
		return rowDeadline
	case migration.RowAsk:
		return rowAsk
	case migration.RowPurge:
		return rowPurge
	}
	return 0
}

// record is one side's migration.Migration, less what it has in common with others.
type record struct {
	state  state
	holds  messages // which of vote, confirmation and abort are in it
	rows   rows
	stored bool // S: the content
}

// move is a migration: both sides' records and what is on its way.
type move struct {
	source, target record
	net            messages
	base           history // of the member when it asked: what the migration Commit follows
	pending        bool    // the member has sent the Init and waits
	over           bool    // S will refuse its Init, if there ever is one: the epoch of the request is over
}

// world is one state of everything there is.
type world struct {
	groups  [maxTerms + 1]group
	moves   [maxSlots]move
	members [members]history
}

// The two times there are: before and at a deadline.
var (
	before   = time.Unix(1, 0)
	deadline = time.Unix(2, 0)
)

// someBytes are enough to tell a migration's signed messages and content hashes from another's.
var someBytes = []byte("0123456789abcdef0123456789abcdef")

// signed is a signed message about a migration, contentHash the hash of its content.
func signed(m messages, i slot) migration.Signed {
	return migration.Signed{Message: someBytes[i : uint16(i)+uint16(m)]}
}

func contentHash(i slot) []byte { return someBytes[i : i+1] }

// load gives the record as the machine knows it.
func (r *record) load(i slot) migration.Migration {
	m := migration.Migration{ID: i.id(), State: states[r.state], DecideBy: deadline, ExpiresAt: deadline}
	switch {
	case r.state >= offered:
		m.Role = migration.Target
	case r.state >= frozen:
		m.Role = migration.Source
	}
	if r.state >= frozen && r.state <= aborted || r.holds&vote != 0 {
		m.ContentHash = contentHash(i)
	}
	for _, f := range signedFields(&m) {
		if r.holds&f.kind != 0 {
			*f.field = signed(f.kind, i)
		}
	}
	return m
}

// save takes over what the machine has made of the record.
func (r *record) save(m *migration.Migration) {
	r.state, r.holds = state(slices.Index(states[:], m.State)), 0
	for _, f := range signedFields(m) {
		if f.field.Message != nil {
			r.holds |= f.kind
		}
	}
}

type signedField struct {
	kind  messages
	field *migration.Signed
}

func signedFields(m *migration.Migration) [3]signedField {
	return [...]signedField{{vote, &m.Complete}, {confirmation, &m.Confirmation}, {abort, &m.Abort}}
}

func (g group) mirror() group {
	if g.history = g.history.mirror(); g.state > groupActive {
		g.move = g.move.mirror()
	}
	return g
}

// mirror is the world with the two members exchanged: nothing tells one from the other.
func (w *world) mirror() world {
	m := *w
	for i := range m.moves {
		m.moves[i] = w.moves[slot(i).mirror()]
		m.moves[i].base = m.moves[i].base.mirror()
	}
	for t := range m.groups {
		m.groups[t] = w.groups[t].mirror()
	}
	m.members = [members]history{w.members[1].mirror(), w.members[0].mirror()}
	return m
}
