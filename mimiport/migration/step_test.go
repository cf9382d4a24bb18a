package migration_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

var update = flag.Bool("update", false, "write the golden files")

var (
	created  = time.Unix(1_700_000_000, 0)
	start    = created.Add(time.Second)
	decideBy = start.Add(time.Minute)
	hash     = []byte("content hash")
)

func signed(what string) migration.Signed { return migration.Signed{Message: []byte(what)} }

// events lists one of each event in each variant that matters.
var events = []struct {
	name  string
	event migration.Event
}{
	{"vote in time", migration.Vote{ContentHash: hash, Complete: signed("vote"), Confirmation: signed("confirmation"), Abort: signed("abort"), At: start}},
	{"vote at decide_by", migration.Vote{ContentHash: hash, Complete: signed("vote"), Confirmation: signed("confirmation"), Abort: signed("abort"), At: decideBy}},
	{"vote for another content", migration.Vote{ContentHash: []byte("other"), Complete: signed("vote"), Confirmation: signed("confirmation"), Abort: signed("abort"), At: start}},
	{"clock before the deadline", migration.Deadline{At: start, Abort: signed("abort")}},
	{"clock at the deadline", migration.Deadline{At: decideBy, Abort: signed("abort")}},
	{"clock before the record", migration.Deadline{At: created.Add(-1), Abort: signed("abort")}},
	{"vote before the record", migration.Vote{ContentHash: hash, Complete: signed("vote"), Confirmation: signed("confirmation"), Abort: signed("abort"), At: created.Add(-1)}},
	{"content before the record", migration.Content{ContentHash: hash, Complete: signed("vote"), At: created.Add(-1)}},
	{"giving up", migration.GiveUp{Abort: signed("abort"), Reason: "asked to"}},
	{"acknowledgement", migration.Ack{}},
	{"content in time", migration.Content{ContentHash: hash, Complete: signed("vote"), At: start}},
	{"content too late", migration.Content{ContentHash: hash, Complete: signed("vote"), At: decideBy}},
	{"another content", migration.Content{ContentHash: []byte("other"), Complete: signed("vote"), At: start}},
	{"confirmation", migration.Confirm{Confirmation: signed("confirmation")}},
	{"confirmation, data kept", migration.Confirm{Confirmation: signed("confirmation"), Kept: true}},
	{"source's abort", migration.SourceAbort{Abort: signed("abort")}},
	{"own confirmation shown", migration.Recall{Confirmation: signed("confirmation")}},
	{"another step of the term", migration.Superseded{}},
	{"operator's drop", migration.OperatorDrop{}},
}

// in is a record in a state, as it comes to it.
func in(s migration.State) migration.Migration {
	m := migration.Migration{State: s, CreatedAt: created, DecideBy: decideBy, ExpiresAt: decideBy, ContentHash: hash}
	switch s {
	case migration.Offered:
		m.ContentHash, m.DecideBy = nil, time.Time{}
	case migration.Dropped:
		m.Abort = signed("abort")
	}
	return m
}

var states = []migration.State{
	migration.Frozen, migration.Decided, migration.Moved, migration.Aborted,
	migration.Offered, migration.Staged, migration.Active, migration.Dropped,
}

var actionNames = map[migration.Action]string{
	migration.SendContent: "send content", migration.SetDeadline: "set deadline", migration.Freeze: "freeze", migration.MoveGroup: "move group",
	migration.Unfreeze: "unfreeze", migration.StopGroup: "stop group", migration.SendConfirmation: "send confirmation", migration.SendAbort: "send abort", migration.Stage: "stage",
	migration.AskSource: "ask source", migration.ActivateGroup: "activate group", migration.Discard: "discard",
}

// TestTransitions compares each state under each event with the reviewed table in testdata.
func TestTransitions(t *testing.T) {
	var got bytes.Buffer
	for _, s := range states {
		fmt.Fprintf(&got, "%s\n", s)
		for _, e := range events {
			next, actions, err := in(s).Step(e.event)
			fmt.Fprintf(&got, "  %-25s %s\n", e.name, outcome(s, next, actions, err))
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

func outcome(from migration.State, next migration.Migration, actions []migration.Action, err error) string {
	switch {
	case errors.Is(err, migration.ErrEquivocation):
		return "equivocation"
	case err != nil:
		return "error: " + err.Error()
	case next.State == from && len(actions) == 0:
		return "-"
	}
	var names []string
	for _, a := range actions {
		names = append(names, actionNames[a])
	}
	return strings.TrimSuffix(fmt.Sprintf("→ %s: %s", next.State, strings.Join(names, ", ")), ": ")
}

// TestEndedStates: "A migration_id ends once" (profile, section 6): no event changes an ended record in any field.
func TestEndedStates(t *testing.T) {
	for _, s := range states {
		if !s.Ended() {
			continue
		}
		for _, e := range events {
			switch c := e.event.(type) { // if S signed both, the confirmation wins
			case migration.Confirm:
				if c.Kept && s == migration.Dropped {
					continue
				}
			case migration.Recall:
				if s == migration.Aborted {
					continue
				}
			}
			before := in(s)
			next, actions, _ := before.Step(e.event)
			if fmt.Sprint(next) != fmt.Sprint(before) || len(actions) > 0 {
				t.Errorf("%s changes a record that is %s", e.name, s)
			}
		}
	}
}

// TestSignedOnlyOnce: of the two answers prepared for a vote only the decided one is in the record, and it never changes.
func TestSignedOnlyOnce(t *testing.T) {
	for _, e := range events {
		next, _, _ := in(migration.Frozen).Step(e.event)
		if len(next.Confirmation.Message) > 0 && len(next.Abort.Message) > 0 {
			t.Errorf("%s leaves both a confirmation and an abort", e.name)
		}
		for _, later := range events {
			if _, ok := later.event.(migration.Recall); ok {
				continue // signs nothing: it is told what was signed
			}
			last, _, _ := next.Step(later.event)
			if next.State != migration.Frozen && (string(last.Confirmation.Message) != string(next.Confirmation.Message) ||
				string(last.Abort.Message) != string(next.Abort.Message)) {
				t.Errorf("%s after %s changes what was signed", later.name, e.name)
			}
		}
	}
}
