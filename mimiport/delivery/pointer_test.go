package delivery_test

import (
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// TestAskIsFiledUnderTheSource: a target asks its source how a migration ended. It files the row under the source, so
// that a silent source delays no other server.
func TestAskIsFiledUnderTheSource(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "vote" }
	p.begin(serverA, serverB, bob)
	p.run()
	if ask := p.due(serverB, migration.RowAsk); ask.Destination != serverA {
		t.Errorf("the row is filed under %s", ask.Destination)
	}
}

// confirmedTo returns a pointer to target, with a confirmation by A.
func (p *play) confirmedTo(target string, nonce byte) *api.Pointer {
	p.t.Helper()
	response := &mimiport.MigrationResponse{
		Request: mimiport.MigrationRequest{
			SourceDomain: serverA, TargetDomain: target, GroupID: p.id, Epoch: p.group.Epoch(),
		},
		Nonce: mimiport.Nonce{nonce},
	}
	evidence := &api.PointerEvidence{
		MigrationResponse: p.encoded(target, response), ResponseKeyID: p.KeyID(target),
		MigrationConfirmation: p.encoded(serverA, &mimiport.MigrationConfirmation{
			DomainName: target, Nonce: response.Nonce, GroupID: p.id,
		}),
		ConfirmationKeyID: p.KeyID(serverA),
	}
	return &api.Pointer{Via: target, Term: 1, Epoch: p.group.Epoch() + 1, Evidence: evidence}
}

// pointAndTell sets the room's pointer and tells A.
func (p *play) pointAndTell(pointer *api.Pointer) {
	p.t.Helper()
	p.point(*pointer)
	if err := p.services[serverA].RoomChanged(p.t.Context(), room); err != nil {
		p.t.Fatal(err)
	}
	p.now = p.now.Add(2 * time.Second)
}

// sweep does A's rows for rooms, and returns how many there were.
func (p *play) sweep() (n int) {
	p.t.Helper()
	for rows := p.rows(serverA, storage.RowSweep); len(rows) > 0; rows = p.rows(serverA, storage.RowSweep) {
		if n++; rows[0].Destination != storage.Background {
			p.t.Errorf("%s has a place for %+v", rows[0].Destination, rows[0])
		}
		if err := p.services[serverA].Do(p.t.Context(), rows[0]); err != nil {
			p.t.Fatalf("%+v: %v", rows[0], err)
		}
		p.now = p.now.Add(time.Millisecond)
	}
	return n
}

// rows lists the due rows of a kind at a server.
func (p *play) rows(server string, kind storage.RowKind) (found []storage.Row) {
	p.t.Helper()
	all, _, err := p.stores[server].Due(p.t.Context(), p.now, 100)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, row := range all {
		if row.Kind == kind {
			found = append(found, row)
		}
	}
	return found
}

// TestPointerIsFiledUnderItsTarget: this server does its own work for a room without a request to another server. It
// files one row for each step that the room's pointer shows, under the server whose keys the step needs. The row waits
// while that server is silent.
func TestPointerIsFiledUnderItsTarget(t *testing.T) {
	p := newPlay(t)
	p.Silent = map[string]bool{serverC: true}
	pointer := p.confirmedTo(serverC, 1)
	for range 3 {
		p.pointAndTell(pointer)
		p.Verified = func() { t.Error("own work asks for keys") }
		p.sweep()
		p.Verified = nil
		rows := p.rows(serverA, storage.RowPointer)
		if len(rows) != 1 || rows[0].Destination != serverC {
			t.Fatalf("the rows for the pointer are %+v", rows)
		}
		expectKind(t, p.services[serverA].Do(t.Context(), rows[0]), mimiport.KindPeer)
	}
	p.expectHosted(serverA, 0)
	p.Silent = nil
	p.run()
	p.expectMoved(serverA, serverC)
}

// TestPointerOfThePast: the server asks no other server about a step that the room's pointer no longer shows.
func TestPointerOfThePast(t *testing.T) {
	p := newPlay(t)
	p.Silent = map[string]bool{serverC: true}
	p.pointAndTell(p.confirmedTo(serverC, 1))
	p.run()
	p.Room.Events = nil
	p.Verified = func() { t.Error("asks for keys") }
	p.now = p.now.Add(time.Minute)
	p.run()
	if rows := p.rows(serverA, storage.RowPointer); len(rows) != 0 {
		t.Errorf("%+v are left", rows)
	}
	p.Verified = nil
	p.expectHosted(serverA, 0)
}

// TestBadPointers: this server stores no row for a pointer without a step to check, and still removes users who have
// left.
func TestBadPointers(t *testing.T) {
	for name, spoil := range map[string]func(*api.Pointer){
		"no evidence":      func(p *api.Pointer) { p.Evidence = nil },
		"another term":     func(p *api.Pointer) { p.Term = 2 },
		"no message":       func(p *api.Pointer) { p.Evidence.MigrationResponse = nil },
		"not a structure":  func(p *api.Pointer) { p.Evidence.MigrationResponse = []byte("response") },
		"not a name to be": func(*api.Pointer) {},
	} {
		p := newPlay(t)
		target := serverC
		if name == "not a name to be" {
			target = "c example"
		}
		pointer := p.confirmedTo(target, 1)
		spoil(pointer)
		p.pointAndTell(pointer)
		p.sweep()
		if rows := append(p.rows(serverA, storage.RowPointer), p.rows(serverA, migration.RowExpel)...); len(rows) != 0 {
			t.Errorf("%s: %+v are left", name, rows)
		}
	}
}
