package integration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// pair is a group of two members on two homeservers, alice's and bob's, who may both move it.
type pair struct {
	alice, bob *harness.Client
	room       string
	group      string // its id in base64url
	said       int
}

func newPair(t *testing.T) *pair {
	t.Helper()
	servers := harness.StartServers(t, 2)
	return newPairAt(t, servers[0], servers[1])
}

// newPairAt is newPair on servers that run: alice's, where the group is created, and bob's.
func newPairAt(t *testing.T, a, b *harness.Server) *pair {
	t.Helper()
	alice := harness.RegisterUser(t, a, "alice", false)
	bob := harness.RegisterUser(t, b, "bob", false)
	room := sharedRoom(t, alice, bob)
	if err := alice.SetPowerLevel(t.Context(), room, bob.ID, 100); err != nil {
		t.Fatal(err)
	}
	p := &pair{alice: startClient(t, alice), bob: startClient(t, bob), room: room}
	var st harness.GroupState
	do(t, p.bob, "publish_key_packages", harness.Args{"n": 1}, nil)
	do(t, p.alice, "create_group", harness.Args{"room": room}, &st)
	p.group = st.Group
	do(t, p.alice, "add", harness.Args{"user": bob.ID}, nil)
	do(t, p.bob, "join", nil, nil)
	return p
}

// startClient starts a client that keeps its state across restarts and ends with the test.
func startClient(t *testing.T, u *harness.User) *harness.Client {
	t.Helper()
	c, err := harness.StartClient(t.Context(), u, t.TempDir()+"/client.json")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Kill() }) // it may have ended
	return c
}

func do(t *testing.T, c *harness.Client, command string, args harness.Args, out any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*harness.Patience)
	defer cancel()
	if err := c.Do(ctx, command, args, out); err != nil {
		t.Fatalf("%s: %s: %v", c.Name, command, err)
	}
}

func state(t *testing.T, c *harness.Client) (st harness.GroupState) {
	t.Helper()
	do(t, c, "state", nil, &st)
	return st
}

// hosted is what a Delivery Service says of a group.
type hosted struct {
	State string `json:"state"`
	DS    string `json:"delivery_service"`
	Term  uint64 `json:"term"`
	Epoch uint64 `json:"epoch"`
}

// settle waits until both members are in the same epoch at the same Delivery Service, with the same secrets, and returns what
// that Delivery Service says of the group.
func (p *pair) settle(t *testing.T) hosted {
	t.Helper()
	alice := state(t, p.alice)
	var bob harness.GroupState
	do(t, p.bob, "wait_for", harness.Args{"kind": "state", "epoch": alice.Epoch, "term": alice.Term}, &bob)
	do(t, p.alice, "wait_for", harness.Args{"kind": "state", "epoch": bob.Epoch, "term": bob.Term}, &alice)
	if alice.EpochAuthenticator != bob.EpochAuthenticator || alice.DS != bob.DS || alice.Term != bob.Term {
		t.Fatalf("alice and bob differ:\n%+v\n%+v", alice, bob)
	}
	var ds hosted
	do(t, p.alice, "ds_info", harness.Args{"ds": alice.DS}, &ds)
	if ds.DS != alice.DS || ds.Term != alice.Term || ds.Epoch != alice.Epoch {
		t.Fatalf("the clients and the Delivery Service differ:\n%+v\n%+v", alice, ds)
	}
	return ds
}

// talk lets both members send a message that the other decrypts.
func (p *pair) talk(t *testing.T) {
	t.Helper()
	for _, way := range [][2]*harness.Client{{p.alice, p.bob}, {p.bob, p.alice}} {
		p.said++
		text := fmt.Sprintf("message %d", p.said)
		do(t, way[0], "send", harness.Args{"text": text}, nil)
		do(t, way[1], "wait_for", harness.Args{"kind": "message", "text": text}, nil)
	}
}

// outcome is how a migration ended for the client that began it.
type outcome struct {
	State  string `json:"state"` // moved, aborted, overtaken
	Reason string `json:"reason"`
}

// migrate has the group moved by the member whose homeserver is the target, and returns before that has ended. While that
// homeserver is away, the member tries again.
func (p *pair) migrate(t *testing.T, mover *harness.Client) (end func(t *testing.T) outcome) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*harness.Patience)
	t.Cleanup(cancel)
	type result struct {
		outcome
		err error
	}
	done := make(chan result, 1)
	go func() {
		r, err := persist(ctx, mover)
		done <- result{r, err}
	}()
	return func(t *testing.T) outcome {
		t.Helper()
		r := <-done
		if r.err != nil {
			t.Fatalf("%s: migrate: %v", mover.Name, r.err)
		}
		return r.outcome
	}
}

func persist(ctx context.Context, mover *harness.Client) (out outcome, err error) {
	target := mover.User.Server.Name
	for {
		err = mover.Do(ctx, "migrate", harness.Args{"target": target}, &out)
		var refused *harness.Error
		if err == nil || errors.As(err, &refused) || ctx.Err() != nil {
			return out, err
		}
		var st harness.GroupState
		if err := mover.Do(ctx, "state", nil, &st); err != nil || st.DS == target {
			return outcome{State: "moved"}, err // and what failed came after that
		}
	}
}

// after lets a time pass: where in its work a server is then must not matter.
func after(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// restart is a power cut and what follows it.
func restart(t *testing.T, s *harness.Server) {
	t.Helper()
	if err := errors.Join(s.Kill(), s.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
}
