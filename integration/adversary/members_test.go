package adversary

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/acl"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// squatID: bob's server imports a group with the same id from the attacker's server, for another room. At first that
// room does not bind the id, and then it does.
func squatID(t *testing.T, g *group) {
	own := g.newRoom(t)
	h := g.newHoax(t, own, g.id)
	h.put(t, g.b, time.Now().Add(time.Hour)).requireRefused(t, "an id that the room does not name")
	binding := &api.Binding{RoomID: own, GroupID: g.id, Protocol: protocol, CreatingServer: g.c.Name}
	if err := g.bob.SetState(harness.Within(t), own, api.EventGroup, binding); err != nil {
		t.Fatal(err)
	}
	h = g.newHoax(t, own, g.id)
	h.stage(t, time.Now().Add(time.Hour)) // goesOn checks that it does not disturb the group
	if a := h.confirm(t, g.c.SigningIdentity); a.status != http.StatusOK {
		t.Errorf("the decision: %v", a)
	}
}

// laterEpochs: mallory and bob submit Commits of later epochs that do not exist.
func laterEpochs(t *testing.T, g *group) {
	madeUp := g.mls
	for range 3 {
		madeUp = madeUp.Commit(mlstest.CommitOptions{Sender: malloryLeaf, Path: true}).Next
		for leaf, u := range map[uint32]*harness.User{malloryLeaf: g.mallory, bobLeaf: g.bob} {
			c := madeUp.Commit(mlstest.CommitOptions{Sender: leaf, Path: true})
			err := g.submit(t, u, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo})
			harness.RequireRefused(t, err, "IO.GITHUB.MIMIPORT.M_WRONG_EPOCH")
		}
	}
}

// deniedServer: Dendrite matches part of a name: it admits all names that contain an allowed name. The module does not.
func deniedServer(t *testing.T, g *group) {
	setACL := func(allow string) {
		t.Helper()
		content := map[string]any{"allow": []string{allow}, "allow_ip_literals": false}
		if err := g.alice.SetState(harness.Within(t), g.room, acl.EventType, content); err != nil {
			t.Fatal(err)
		}
	}
	setACL("ocalhos")
	g.await(t, g.mallory, true)
	for _, r := range []struct {
		method, route string
		body          any
	}{
		{http.MethodGet, g.path(""), nil},
		{http.MethodGet, g.path("/host"), nil},
		{http.MethodGet, g.path("/messages"), nil},
		{http.MethodGet, g.path("/tree?epoch=0"), nil},
		{http.MethodPost, g.path("/messages"), &api.SubmitRequest{Message: g.mls.Application(nil, 32)}},
		{http.MethodPut, g.path("/lineage"), &api.LineageRequest{Lineage: []byte{0}}},
	} {
		if err := g.ask(t, g.mallory, r.method, r.route, r.body, nil); !denied(err) {
			t.Errorf("%s %s: %v", r.method, r.route, err)
		}
	}
	if _, err := askOffer(t, g.alice, g.a.Name, g.c.Name, g.room, g.id, 0); !denied(err) {
		t.Errorf("an offer: %v", err)
	}
	setACL("*")
	g.await(t, g.mallory, false)
	g.awaitACL(t, g.bob, "*") // bob's server is the next host
}

// awaitACL waits until a user's server has an ACL that admits one pattern.
func (g *group) awaitACL(t *testing.T, u *harness.User, allow string) {
	t.Helper()
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
		var content struct{ Allow []string }
		if err := u.State(ctx, g.room, acl.EventType, &content); err != nil || !slices.Equal(content.Allow, []string{allow}) {
			return fmt.Errorf("the ACL admits %q: %w", content.Allow, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// await waits until the room's ACL at a denies a user (want), or admits the user.
func (g *group) await(t *testing.T, u *harness.User, want bool) {
	t.Helper()
	err := harness.Poll(harness.Within(t), func(context.Context) error {
		if err := g.ask(t, u, http.MethodGet, g.path(""), nil, nil); denied(err) != want {
			return fmt.Errorf("denied %t: %w", !want, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// denied reports whether an error is a refusal because of the room's server ACL.
func denied(err error) bool {
	var refused *harness.Error
	return errors.As(err, &refused) &&
		strings.Contains(fmt.Sprint(refused.Fields["error"]), "the room's server ACL denies")
}

// manySigners: mallory and the attacker's server show a chain with 1,000 signers, all of the attacker's server.
func manySigners(t *testing.T, g *group) {
	var asked counter
	g.c.lies(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/_matrix/key/") {
			asked.Add(1)
		}
		return false
	})
	l := *g.lineage(t)
	for i := range 1000 {
		claim := &mimiport.LineageClaim{
			Kind: mimiport.StepRecover, DomainName: g.c.Name, GroupID: g.id, Term: uint64(i + 1), Epoch: uint64(i + 1),
		}
		signed := harness.Signed(t, g.c.SigningIdentity, claim)
		l.Steps = append(l.Steps, mimiport.LineageStep{
			Kind:  claim.Kind,
			Claim: &mimiport.SignedMessage{Message: signed.Message, KeyID: fmt.Sprint("ed25519:k", i)},
		})
	}
	lineage := encode(t, &l)
	start := time.Now()
	for _, answer := range g.show(t, g.a, lineage) {
		answer.requireRefused(t, "a chain of 1,000 signers")
	}
	t.Logf("shown twice %d KB with 1,000 keys: %d key requests, %d ms",
		len(lineage)>>10, asked.Load(), time.Since(start).Milliseconds())
	if n := asked.Load(); n > 16 {
		t.Errorf("the attacker's server was asked for keys %d times", n)
	}
}
