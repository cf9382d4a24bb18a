package delivery_test

import (
	"crypto/sha256"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// TestClockBack: the clock goes back while the group is frozen. S decides if the vote comes first. Otherwise S aborts
// when it next looks at the deadline. S does not stay frozen for the time by which the clock went back.
func TestClockBack(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	content := p.due(serverA, migration.RowContent)
	p.now = p.now.Add(-time.Hour)
	if err := p.services[serverA].Do(t.Context(), content); err != nil {
		t.Fatal(err)
	}
	p.run()
	p.expect(a, "moved", "active")

	p.group = a.commit.Next
	p.lost = func(_, what string) bool { return what == "content" }
	a = p.begin(serverB, serverA, alice)
	p.now = p.now.Add(-time.Hour)
	p.runOnce()
	p.expect(a, "aborted", "dropped")
	p.expectHosted(serverB, 1)
}

// due returns the waiting row of a kind at a server.
func (p *play) due(server string, kind storage.RowKind) storage.Row {
	p.t.Helper()
	rows, _, err := p.stores[server].Due(p.t.Context(), p.now.AddDate(200, 0, 0), 100)
	if err != nil {
		p.t.Fatal(err)
	}
	i := slices.IndexFunc(rows, func(r storage.Row) bool { return r.Kind == kind })
	if i < 0 {
		p.t.Fatalf("no row of kind %s at %s", kind, server)
	}
	return rows[i]
}

// TestDeadlineTooEarly: if the clock goes back a little and a row for a deadline runs before its time, the row stays.
func TestDeadlineTooEarly(t *testing.T) {
	p := newPlay(t)
	p.lost = func(_, what string) bool { return what == "content" || what == "abort" }
	a := p.begin(serverA, serverB, bob)
	for _, server := range []string{serverA, serverB} {
		early := p.due(server, migration.RowDeadline)
		err := p.services[server].Do(t.Context(), early)
		expectKind(t, err, mimiport.KindInProgress)
		if left := asError(err).Info.RetryAfter; left <= 0 || left > storage.MaxWait {
			t.Errorf("%s: to be tried again after %v", server, left)
		}
	}
	p.expect(a, "frozen", "offered")
	p.now = p.now.Add(storage.MaxWait)
	p.lost = func(_, what string) bool { return what == "content" }
	p.run()
	p.expect(a, "aborted", "dropped")
}

// TestSourceAhead: the target asks its source even if the source's clock is far ahead.
func TestSourceAhead(t *testing.T) {
	p := newPlay(t)
	a := p.begin(serverA, serverB, bob)
	data, err := p.stores[serverA].Content(t.Context(), a.id)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.services[serverB].PutContent(t.Context(), serverA, &api.ContentUpload{
		ID: a.id, KeyID: "ed25519:1", Data: data, DecideBy: p.now.AddDate(100, 0, 0),
	})
	if err != nil {
		t.Fatal(err)
	}
	if ask := p.due(serverB, migration.RowAsk); ask.Due.After(p.now.Add(storage.MaxWait)) {
		t.Errorf("the target asks at %v", ask.Due)
	}
}

// TestClockYearsAhead: a clock that leaps ahead ends everything with a retention. It ends nothing that the server keeps
// for good: redirects, the lineage, aborted Commits, used nonces.
func TestClockYearsAhead(t *testing.T) {
	p := newPlay(t)
	dropped := p.begin(serverA, serverB, bob)
	if _, err := p.services[serverA].AbortMigration(t.Context(), caller(bob), dropped.id); err != nil {
		t.Fatal(err)
	}
	p.run()
	moved := p.move(serverA, serverB, bob)
	right := p.now
	p.now = p.now.AddDate(50, 0, 0)
	p.run()
	for _, store := range p.stores {
		if err := store.Forget(t.Context(), storage.Horizon{Log: p.now, Offers: p.now, Evidence: p.now}); err != nil {
			t.Fatal(err)
		}
	}
	p.now = right
	p.run()
	p.expectMoved(serverA, serverB)
	p.expectHosted(serverB, 1)
	if st, err := p.initiate(dropped); err != nil || st.State != "aborted" || st.Abort == nil {
		t.Errorf("the Init of the aborted migration gives %+v, %v", st, err)
	}
	sum := sha256.Sum256(dropped.init.Message)
	if aborted, err := p.stores[serverA].CommitAborted(t.Context(), p.id, sum[:]); err != nil || !aborted {
		t.Errorf("the aborted Commit is forgotten (%v)", err)
	}
	if st, err := p.initiate(moved); err != nil || st.State != "moved" {
		t.Errorf("the Init of the last migration gives %+v, %v", st, err)
	}
	again := p.move(serverB, serverA, alice)
	p.expectMoved(serverB, serverA)
	if again.id == moved.id {
		t.Error("a migration has come twice")
	}
}

// TestQuotaOfTheFuture: aborts from a time when the clock was ahead do not keep a group from moving when the clock is
// right again.
func TestQuotaOfTheFuture(t *testing.T) {
	p := newPlay(t)
	p.now = p.now.AddDate(1, 0, 0)
	for range policy.Default().Quotas.AbortsAnHour {
		a := p.begin(serverA, serverB, bob)
		if _, err := p.services[serverA].AbortMigration(t.Context(), caller(bob), a.id); err != nil {
			t.Fatal(err)
		}
		p.run()
	}
	_, err := p.initiate(p.mustRequest(serverA, serverB, bob))
	expectKind(t, err, mimiport.KindQuota)
	p.now = p.now.AddDate(-1, 0, 0)
	p.move(serverA, serverB, bob)
}
