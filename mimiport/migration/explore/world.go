package explore

import (
	"math/bits"
	"slices"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// These are the sizes of a world. Bounds limit the part of it that a search uses.
const (
	maxTerms = 3
	members  = 2
	maxSlots = maxTerms * members
)

// server is A (0) or B (1). A hosts the group in the beginning.
type server uint8

// slot is a migration: one for each term that the group moves to and each member who asks.
type slot uint8

func (i slot) term() int      { return int(i)/members + 1 }
func (i slot) member() int    { return int(i) % members }
func (i slot) source() server { return server(i.term()-1) % 2 }
func (i slot) target() server { return server(i.term()) % 2 }

// mirror is the slot of the other member for the same term.
func (i slot) mirror() slot { return i ^ 1 }

// history is a sequence of Commits, four bits for each. The first Commit is in the lowest bits. The length is the
// epoch. A member's own Commit is 1 + the member. A migration Commit is firstMove + the slot.
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

// term is the number of moves of the group.
func (h history) term() int {
	n := 0
	for ; h != 0; h >>= 4 {
		if h&0xf >= firstMove {
			n++
		}
	}
	return n
}

// mirror is the history after the two members have changed places.
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

// groupStates are the states of a group. Index 0 is no group.
var groupStates = [...]migration.GroupState{
	"", migration.GroupActive, migration.GroupFrozen, migration.GroupMoved,
	migration.GroupStaged, migration.GroupDropped,
}

// group is the row of the group in one term, at the host of that term. The host has accepted the history, unless the
// group is staged or dropped.
type group struct {
	state   groupState
	move    slot // the migration that froze, moved, staged or dropped it
	history history
}

// load returns the row in the machine's form.
func (g *group) load() migration.Group {
	if g.state <= groupActive {
		return migration.Group{State: groupStates[g.state]}
	}
	return migration.Group{State: groupStates[g.state], Migration: g.move.id()}
}

// save stores the row that the machine returns. An active row does not keep the migration that brought the group.
func (g *group) save(to migration.Group) {
	g.state, g.move = groupState(slices.Index(groupStates[:], to.State)), 0
	if g.state > groupActive {
		g.move = slot(to.Migration[0] - 1)
	}
}

// id is the id of a migration.
func (i slot) id() mimiport.MigrationID { return mimiport.MigrationID{1 + byte(i)} }

// states are the states of a record. Index 0 is no record.
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

// messages is a set of messages about one migration. The kind of a message determines its sender and its receiver.
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
	rowAsk                       // T: ask S how the migration ended
	rowPurge                     // forget the group of that term, after the end of the model: no state keeps this row
)

// rowBit is the bit of a kind of row, 0 if the model leaves the kind out.
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

// record is the migration.Migration of one side, without the fields that are the same in all records.
type record struct {
	state  state
	holds  messages // the record's messages among vote, confirmation and abort
	rows   rows
	stored bool // S has stored the content
}

// move is a migration: the records of both sides, and the messages on their way.
type move struct {
	source, target record
	net            messages
	base           history // the member's history when it asked: the migration Commit follows it
	pending        bool    // the member has sent the Init and waits
	over           bool    // the epoch of the request is past: S will refuse any Init
}

// world is one state of the whole model.
type world struct {
	groups  [maxTerms + 1]group
	moves   [maxSlots]move
	members [members]history
}

// The model has two times: before a deadline, and at a deadline.
var (
	before   = time.Unix(1, 0)
	deadline = time.Unix(2, 0)
)

// someBytes has enough bytes to give each signed message and each content hash of each migration its own value.
var someBytes = []byte("0123456789abcdef0123456789abcdef")

// signed is a signed message about a migration. contentHash is the hash of the migration's content.
func signed(m messages, i slot) migration.Signed {
	return migration.Signed{Message: someBytes[i : uint16(i)+uint16(m)]}
}

func contentHash(i slot) []byte { return someBytes[i : i+1] }

// load returns the record in the machine's form.
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

// save stores the record that the machine returns.
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

// mirror is the world after the two members have changed places. The model treats both worlds alike.
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
