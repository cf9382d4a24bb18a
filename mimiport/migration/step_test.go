package migration_test

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

var update = flag.Bool("update", false, "write the golden files")

var (
	created  = time.Unix(1_700_000_000, 0)
	start    = created.Add(time.Second)
	decideBy = start.Add(time.Minute)
	hash     = []byte("content hash")

	theContent = signed("content")

	id, other = mimiport.MigrationID{1}, mimiport.MigrationID{2}
)

type content = migration.Content

func signed(what string) migration.Signed { return migration.Signed{Message: []byte(what)} }

// events lists one of each event in each variant that matters.
var events = []struct {
	name  string
	event migration.Event
}{
	{"vote in time", migration.Vote{ContentHash: hash, Complete: signed("vote"), At: start}},
	{"vote at decide_by", migration.Vote{ContentHash: hash, Complete: signed("vote"), At: decideBy}},
	{"vote for another content", migration.Vote{ContentHash: []byte("other"), Complete: signed("vote"), At: start}},
	{"clock before the deadline", migration.Deadline{At: start}},
	{"clock at the deadline", migration.Deadline{At: decideBy}},
	{"clock before the record", migration.Deadline{At: created.Add(-1)}},
	{"vote before the record", migration.Vote{ContentHash: hash, Complete: signed("vote"), At: created.Add(-1)}},
	{"content before the record", content{Message: theContent, ContentHash: hash, At: created.Add(-1)}},
	{"giving up", migration.GiveUp{Reason: "asked to"}},
	{"acknowledgement", migration.Ack{}},
	{"content in time", content{Message: theContent, ContentHash: hash, DecideBy: decideBy, At: start}},
	{"content too late", content{Message: theContent, ContentHash: hash, At: decideBy}},
	{"another content", content{Message: theContent, ContentHash: []byte("other"), At: start}},
	{"refused content", migration.RefusedContent{}},
	{"confirmation", migration.Confirm{Confirmation: signed("confirmation")}},
	{"source's abort", migration.SourceAbort{Abort: signed("abort")}},
	{"another step of the term", migration.Superseded{}},
	{"operator's drop", migration.OperatorDrop{}},
	{"end of retention", migration.RetentionOver{}},
	{"own confirmation shown", migration.Recall{Confirmation: signed("confirmation"), Lineage: []byte("lineage")}},
	{"closing", migration.Close{}},
	{"end of a closed group", migration.End{}},
	{"another's claim shown", migration.Yield{Lineage: []byte("lineage")}},
}

// in is a record in a state, as it comes to it.
func in(s migration.State) migration.Migration {
	m := migration.Migration{
		ID: id, State: s, CreatedAt: created, DecideBy: decideBy, ExpiresAt: decideBy, ContentHash: hash,
	}
	switch s {
	case "":
		return migration.Migration{}
	case migration.Frozen, migration.Decided, migration.Moved, migration.Aborted:
		m.Role = migration.Source
	case migration.Offered:
		m.ContentHash, m.DecideBy = nil, time.Time{}
	case migration.Dropped:
		m.Abort = signed("abort")
	}
	return m
}

// The states of a group.
const (
	groupReserved = migration.GroupReserved
	groupActive   = migration.GroupActive
	groupFrozen   = migration.GroupFrozen
	groupStopped  = migration.GroupStopped
	groupClosed   = migration.GroupClosed
	groupEnded    = migration.GroupEnded
	groupMoved    = migration.GroupMoved
	groupStaged   = migration.GroupStaged
	groupDropped  = migration.GroupDropped
)

// by is a group's row in a state, by a migration.
func by(id mimiport.MigrationID, state migration.GroupState) migration.Group {
	return migration.Group{State: state, Migration: id}
}

// none is the id of no migration.
var none mimiport.MigrationID

// situations are the records, each with the groups that it can meet.
var situations = []struct {
	state  migration.State
	groups []migration.Group
}{
	{migration.Frozen, []migration.Group{by(id, groupFrozen)}},
	{migration.Decided, []migration.Group{by(id, groupMoved)}},
	{migration.Moved, []migration.Group{by(id, groupMoved)}},
	{migration.Aborted, []migration.Group{
		by(id, groupActive), by(other, groupFrozen), by(other, groupMoved), by(none, groupStopped),
		by(none, groupClosed),
	}},
	{migration.Offered, []migration.Group{
		{}, by(other, groupDropped), by(other, groupStaged), by(other, groupActive),
	}},
	{migration.Staged, []migration.Group{by(id, groupStaged)}},
	{migration.Active, []migration.Group{by(id, groupActive)}},
	{migration.Dropped, []migration.Group{
		{}, by(id, groupDropped), by(other, groupDropped), by(other, groupActive),
	}},
	{"", []migration.Group{
		by(none, groupActive), by(other, groupFrozen), by(none, groupStopped), by(none, groupMoved),
		by(none, groupClosed), by(none, groupEnded),
	}},
}

// TestTransitions compares all that follows from each event, in each situation, with the reviewed table in testdata.
// What is not in the table changes nothing and asks for nothing.
func TestTransitions(t *testing.T) {
	var got bytes.Buffer
	for _, s := range situations {
		for _, g := range s.groups {
			fmt.Fprintf(&got, "%s, the group %s\n", cmp.Or(string(s.state), "no record"), nameGroup(g))
			for _, e := range events {
				m := in(s.state)
				ready, err := m.Step(g, e.event)
				if told := tell(m, g, ready, err); told != "" {
					fmt.Fprintf(&got, "  %-25s %s\n", e.name, told)
				}
			}
		}
	}
	const golden = "testdata/transitions.txt"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("the transitions are not the reviewed ones; they are:\n%s", got.String())
	}
}

func nameGroup(g migration.Group) string {
	switch {
	case g.State == "":
		return "not here"
	case g.State == groupDropped && g.Migration == mimiport.MigrationID{}:
		return "forgotten"
	case g.Migration == other:
		return string(g.State) + " by another"
	}
	return string(g.State)
}

// tell says in words all that a Ready asks for.
func tell(m migration.Migration, g migration.Group, r migration.Ready, err error) string {
	var parts []string
	say := func(is bool, format string, args ...any) {
		if is {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	say(err != nil, "error: %v", err)
	say(r.Migration.State != m.State, "→ %s", r.Migration.State)
	say(r.Migration.Refused != m.Refused, "%d refused", r.Migration.Refused)
	say(r.Group != g, "the group %s", nameGroup(r.Group))
	say(r.Sign != migration.SignNothing, "sign %s", [...]string{"", "complete", "confirmation", "abort"}[r.Sign])
	say(r.Done != nil, "delete %v", r.Done)
	for _, row := range r.Put {
		say(true, "put %s%s", row.Kind, map[bool]string{false: " for later"}[row.Due.IsZero()])
	}
	say(r.KeepContent != nil, "keep the content")
	say(r.DropContent, "drop the content")
	say(r.Accept, "accept the Commit")
	say(r.Begin, "begin the term")
	say(r.Extend, "extend the lineage")
	say(r.Follow != nil, "follow the lineage shown")
	say(r.Forget, "forget the log")
	for _, e := range r.Evidence {
		say(true, "keep the %s as %s", e.Message.Message, e.Kind)
	}
	return strings.Join(parts, "; ")
}

// TestBegin compares what begins a record or a term, in the same words.
func TestBegin(t *testing.T) {
	for _, c := range []struct {
		from  migration.State
		group migration.Group
		event migration.Event
		want  string
	}{
		{"", by(none, groupActive), migration.Init{Content: []byte("content")},
			"→ frozen; the group frozen; put deadline for later; put content; keep the content"},
		{"", migration.Group{}, migration.Offer{}, "→ offered; put deadline for later"},

		{"", migration.Group{}, migration.Claim{}, "the group active; begin the term"},
		{"", by(other, groupDropped), migration.Claim{}, "the group active; begin the term"},
		{"", by(other, groupStaged), migration.Claim{}, "error: " + migration.ErrStaged.Error()},
		{"", by(id, groupMoved), migration.Claim{}, "error: " + migration.ErrTaken.Error()},

		{migration.Moved, by(id, groupMoved), migration.Reclaim{Given: true}, "delete [confirmation]; put lineage"},
		{migration.Decided, by(id, groupMoved), migration.Reclaim{Given: true}, "delete [confirmation]; put lineage"},
		{migration.Moved, by(id, groupMoved), migration.Reclaim{}, "error: " + migration.ErrNotGiven.Error()},
		{"", by(none, groupMoved), migration.Reclaim{Given: true}, "error: " + migration.ErrNotGiven.Error()},
		{"", by(none, groupStopped), migration.Reclaim{}, ""},
		{"", by(none, groupActive), migration.Reclaim{Given: true}, "error: " + migration.ErrNotGone.Error()},
	} {
		m := in(c.from)
		if c.from == "" {
			m.DecideBy, m.ExpiresAt = decideBy, decideBy
		}
		ready, err := m.Step(c.group, c.event)
		if got := tell(m, c.group, ready, err); got != c.want {
			t.Errorf("%T while the group is %s: %s", c.event, nameGroup(c.group), got)
		}
	}
}

// TestJudge: only a host stops for a later term, for a claim only with support, and only the staged migration's own
// step brings its confirmation.
func TestJudge(t *testing.T) {
	own := migration.Next{Kind: mimiport.StepMigration, Migration: id}
	another := migration.Next{Kind: mimiport.StepMigration, Migration: other}
	reclaim := migration.Next{Kind: mimiport.StepReclaim}
	recover := migration.Next{Kind: mimiport.StepRecover}
	supported := migration.Next{Kind: mimiport.StepRecover, Supported: true}
	host := [5]migration.Ruling{
		migration.TakeOwn, migration.TakeOwn, migration.KeepOn, migration.KeepOn, migration.TakeClaim,
	}
	staged := [5]migration.Ruling{
		migration.TakeConfirm, migration.TakeOther, migration.KeepOn, migration.KeepOn, migration.TakeOther,
	}
	for state, want := range map[migration.GroupState][5]migration.Ruling{
		"": {}, groupReserved: {}, groupMoved: {}, groupDropped: {},
		groupStaged: staged, groupActive: host, groupFrozen: host, groupStopped: host,
	} {
		for n, next := range []migration.Next{own, another, reclaim, recover, supported} {
			if got := (migration.Group{State: state, Migration: id}).Judge(next); got != want[n] {
				t.Errorf("%+v of a group that is %q: %d, not %d", next, state, got, want[n])
			}
		}
	}
}

// TestOfferEndsWithRefusals: the offer is over with the third content that was refused, and takes one until then.
func TestOfferEndsWithRefusals(t *testing.T) {
	m, g := in(migration.Offered), migration.Group{}
	for n := range migration.MaxRefused {
		good, err := m.Step(g, content{Message: theContent, ContentHash: hash, At: start})
		if err != nil || good.Migration.State != migration.Staged {
			t.Errorf("after %d refusals a good content is refused: %v", n, err)
		}
		bad, err := m.Step(g, migration.RefusedContent{})
		if err != nil {
			t.Fatal(err)
		}
		m = bad.Migration
	}
	if m.State != migration.Dropped || m.Reason == "" {
		t.Errorf("after %d refusals the offer is %s", m.Refused, m.State)
	}
}

// TestEndedStates: "A migration_id ends once" (profile, section 6): no event changes an ended record in any field.
func TestEndedStates(t *testing.T) {
	for _, s := range situations {
		for _, g := range s.groups {
			for _, e := range events {
				switch e.event.(type) { // if S signed both, the confirmation wins
				case migration.Confirm, migration.Recall:
					continue
				}
				before := in(s.state)
				ready, _ := before.Step(g, e.event)
				if s.state.Ended() && fmt.Sprint(ready.Migration) != fmt.Sprint(before) {
					t.Errorf("%s changes a record that is %s", e.name, s.state)
				}
			}
		}
	}
}

// TestConfirmationWins: of the ended records only that of an abort changes, by the confirmation, and only while the
// group is to be had.
func TestConfirmationWins(t *testing.T) {
	confirm := migration.Confirm{Confirmation: signed("confirmation")}
	recall := migration.Recall{Confirmation: signed("confirmation")}
	for _, s := range situations {
		for _, g := range s.groups {
			if !s.state.Ended() {
				continue
			}
			confirmed, _ := in(s.state).Step(g, confirm)
			recalled, _ := in(s.state).Step(g, recall)
			kept := s.state == migration.Dropped && g == by(id, groupDropped)
			forgot := s.state == migration.Aborted && g.Owned()
			if confirmed.Migration.State != s.state && !kept || recalled.Migration.State != s.state && !forgot {
				t.Errorf("a confirmation changes a record that is %s, the group %s", s.state, nameGroup(g))
			}
		}
	}
}

// TestSignedOnlyOnce: a source signs either the confirmation or the abort, and never again.
func TestSignedOnlyOnce(t *testing.T) {
	for _, e := range events {
		first, _ := in(migration.Frozen).Step(by(id, groupFrozen), e.event)
		for _, later := range events {
			second, _ := first.Migration.Step(first.Group, later.event)
			if first.Sign != migration.SignNothing && second.Sign != migration.SignNothing {
				t.Errorf("%s after %s signs again", later.name, e.name)
			}
		}
	}
}

// TestJudgeRival: of a lineage that parts from its own a server follows what everybody prefers. It yields to nobody
// for a lineage that gives the group to itself: it stops if it has forgotten what it signed, and an offer alone is
// nothing.
func TestJudgeRival(t *testing.T) {
	yielded := by(none, groupMoved)
	for _, c := range []struct {
		group migration.Group
		rival migration.Rival
		want  migration.Ruling
	}{
		{by(none, groupActive), migration.Rival{}, migration.KeepOn},
		{by(none, groupActive), migration.Rival{Outranks: true}, migration.TakeClaim},
		{by(id, groupFrozen), migration.Rival{Outranks: true}, migration.TakeClaim},
		{by(none, groupActive), migration.Rival{Outranks: true, Here: true}, migration.KeepOn},
		{by(none, groupActive), migration.Rival{Outranks: true, Here: true, Signed: true}, migration.KeepOn},
		{by(none, groupActive), migration.Rival{Outranks: true, Here: true, Signed: true, Forgot: true}, migration.Stop},
		{by(none, groupActive), migration.Rival{Here: true, Signed: true, Forgot: true}, migration.KeepOn},

		{yielded, migration.Rival{}, migration.Nothing},
		{yielded, migration.Rival{Outranks: true}, migration.TakeClaim},
		{yielded, migration.Rival{Outranks: true, Here: true}, migration.Nothing},
		{yielded, migration.Rival{Outranks: true, Here: true, Signed: true}, migration.TakeBack},
		{by(id, groupMoved), migration.Rival{Outranks: true}, migration.Nothing},
		{by(id, groupStaged), migration.Rival{Outranks: true}, migration.Nothing},
	} {
		if got := c.group.JudgeRival(c.rival); got != c.want {
			t.Errorf("%+v of a group that is %s: %d, not %d", c.rival, nameGroup(c.group), got, c.want)
		}
	}
}

// TestStoppedContestsNothing: a group that is stopped does not hold up a claim, and keeps it as evidence.
func TestStoppedContestsNothing(t *testing.T) {
	contest := migration.Contest{Lineage: []byte("lineage")}
	for state, want := range map[migration.GroupState]error{groupActive: migration.ErrContested, groupStopped: nil} {
		ready, err := migration.Migration{}.Step(by(none, state), contest)
		if err != want || len(ready.Evidence) != 1 {
			t.Errorf("a claim to a group that is %s: %v, evidence %v", state, err, ready.Evidence)
		}
	}
}

// TestGivenBack: what a server has yielded is stopped when the room gives it back, with its log.
func TestGivenBack(t *testing.T) {
	ready, err := migration.Migration{}.Step(by(none, groupMoved), migration.Return{Lineage: []byte("lineage")})
	if err != nil || ready.Group.State != groupStopped || ready.Begin || ready.Follow == nil {
		t.Errorf("%+v, %v", ready, err)
	}
}
