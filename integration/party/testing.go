package party

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// Gather makes a room and a group of users, with a reference client for each. The first user creates the group. All of
// them may move it.
func Gather(t testing.TB, users ...*harness.User) *Party {
	t.Helper()
	room := harness.SharedRoom(t, users[0], users[1:]...)
	p, err := Create(harness.Within(t), harness.StartTestClient(t, users[0]), room)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range users[1:] {
		if err := p.Add(harness.Within(t), harness.StartTestClient(t, u)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// Talk sends a message as each member, and waits until all others have decrypted it.
func (p *Party) Talk(t testing.TB) {
	t.Helper()
	for _, from := range p.Members {
		if _, err := p.Say(harness.Within(t), from); err != nil {
			t.Fatal(err)
		}
	}
}

// Move moves the group to a server, as a member. It fails the test if the outcome is not Moved.
func (p *Party) Move(t testing.TB, mover *harness.Client, target *harness.Server) {
	t.Helper()
	var out Outcome
	harness.Do(t, mover, "migrate", harness.Args{"target": target.Name}, &out)
	if out.State != Moved {
		t.Fatalf("%s moved the group to %s: the outcome is %+v", mover.Name, target.Name, out)
	}
}

// RequireSettled calls Settle, and fails the test on an error.
func (p *Party) RequireSettled(t testing.TB) harness.GroupState {
	t.Helper()
	at, err := p.Settle(harness.Within(t))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// RequireAt does the same as RequireSettled. It also fails the test unless the group is at this server in this term.
func (p *Party) RequireAt(t testing.TB, host *harness.Server, term uint64) harness.GroupState {
	t.Helper()
	at := p.RequireSettled(t)
	if at.DS != host.Name || at.Term != term {
		t.Fatalf("the group is at %s in term %d, not at %s in term %d", at.DS, at.Term, host.Name, term)
	}
	return at
}
