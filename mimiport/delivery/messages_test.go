package delivery_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
)

// shownMigration is a migration as an operator of a server sees it: its state on both sides, then a letter for each
// message.
func (p *play) shownMigration(ds string, id mimiport.MigrationID) (string, *api.MigrationMessages) {
	p.t.Helper()
	m := must(p.services[ds].AdminMessages(p.t.Context(), id))(p.t)
	var letters strings.Builder
	for _, message := range m.Messages {
		letters.WriteString(string(message.Progress[0]))
	}
	return fmt.Sprint(m.Migration.State, " ", m.Peer.State, " ", letters.String()), m
}

// TestShowsMessages: an operator sees each of the seven messages of a migration as done, awaited or never made, and its
// state on both sides, from either side.
func TestShowsMessages(t *testing.T) {
	p := newPlay(t)
	expect := func(when, ds string, id mimiport.MigrationID, want string) *api.MigrationMessages {
		t.Helper()
		got, m := p.shownMigration(ds, id)
		if got != want {
			t.Errorf("%s, %s shows %q, not %q", when, ds, got, want)
		}
		return m
	}
	a := p.mustRequest(serverA, serverB, bob)
	if m := expect("offered", serverB, a.id, "offered  ddaaaaa"); m.Peer.Error != "" || m.Peer.Server != serverA {
		t.Errorf("the source does not know the migration yet: %+v", m.Peer)
	}
	if st, err := p.initiate(a); err != nil || st.State != "frozen" {
		t.Fatalf("the Init gives %+v, %v", st, err)
	}
	expect("frozen", serverA, a.id, "frozen offered dddddaa")
	p.Lose = func(m deliverytest.Message) bool { return m.What == "status" }
	if m := expect("out of reach", serverA, a.id, "frozen  dddddaa"); m.Peer.Error == "" {
		t.Error("no word on why the target cannot be asked")
	}
	p.Lose = nil
	must(p.services[serverA].AbortMigration(t.Context(), caller(bob), a.id))(t)
	p.run()
	m := expect("aborted", serverA, a.id, "aborted dropped dddddnd")
	if last := m.Messages[6]; last.Name != "MigrationAbort" || last.Fields["migration_id"] != a.id.String() {
		t.Errorf("the last message is %+v", last)
	}
	expect("aborted", serverB, a.id, "dropped aborted ddnnnnd")

	a = p.move(serverA, serverB, bob)
	source := expect("moved", serverA, a.id, "moved active ddddddd")
	target := expect("moved", serverB, a.id, "active moved ddddddd")
	for i, name := range []string{
		"MigrationRequest", "MigrationResponse", "MigrationInit", "MigrationCommitAAD", "MigrationContent",
		"TargetMigrationComplete", "MigrationConfirmation",
	} {
		if source.Messages[i].Name != name {
			t.Errorf("message %d is %s", i, source.Messages[i].Name)
		}
		fields := source.Messages[i].Fields
		if diff := cmp.Diff(fields, target.Messages[i].Fields); diff != "" && name != "MigrationContent" {
			t.Errorf("%s differs on both sides: %s", name, diff)
		}
		if signed := i == 1 || i == 5 || i == 6; signed != (fields["signature"] != "" && fields["key_id"] != "") {
			t.Errorf("%s shows %v", name, fields)
		}
	}
	const hash = "migration_content_hash"
	if content, vote := source.Messages[4].Fields, source.Messages[5].Fields; vote[hash] != content[hash] {
		t.Errorf("the vote is for another content: %v", vote)
	}
	_, err := p.services[serverA].AdminMessages(t.Context(), mimiport.MigrationID{1})
	expectKind(t, err, mimiport.KindUnknownMigration)
}
