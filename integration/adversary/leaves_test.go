package adversary

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"golang.org/x/crypto/cryptobyte"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/wire"
)

// propose submits a proposal by mallory.
func (g *group) propose(t *testing.T, p *mlstest.Proposal) error {
	t.Helper()
	return g.submit(t, g.mallory, &api.SubmitRequest{Message: g.mls.Propose(malloryLeaf, p)})
}

// sendCommit submits a user's Commit. g.mls goes to the next epoch if the host accepts the Commit.
func (g *group) sendCommit(t *testing.T, u *harness.User, o mlstest.CommitOptions) error {
	t.Helper()
	c := g.mls.Commit(o)
	err := g.submit(t, u, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo, Welcome: c.Welcome})
	if err == nil {
		g.mls = c.Next
	}
	return err
}

// commitValue submits mallory's Commit with a proposal by value.
func (g *group) commitValue(t *testing.T, p *mlstest.Proposal) error {
	t.Helper()
	return g.sendCommit(t, g.mallory, mlstest.CommitOptions{
		Sender: malloryLeaf, Path: true, Proposals: []*mlstest.Proposal{p},
	})
}

// identity returns the MLS identity of a user's device.
func identity(u *harness.User) []byte { return mlstest.Identity(u.ID, u.DeviceID) }

// renameLeaf: mallory's leaf takes the identity of alice's device, of another device of mallory, and of nobody.
func renameLeaf(t *testing.T, g *group) {
	for _, name := range [][]byte{identity(g.alice), mlstest.Identity(g.mallory.ID, "OTHER"), []byte("nobody")} {
		renamed := g.mls.NewClient(name)
		harness.RequireRule(t, g.propose(t, g.mls.UpdateAs(malloryLeaf, renamed)), "successor")
		harness.RequireRule(t, g.sendCommit(t, g.mallory, mlstest.CommitOptions{
			Sender: malloryLeaf, Path: true, Edit: mlstest.Edit{Owner: renamed},
		}), "successor")
	}
}

// secondLeaf: mallory adds a second leaf for the same device.
func secondLeaf(t *testing.T, g *group) {
	twin := g.mls.NewClient(identity(g.mallory))
	harness.RequireRule(t, g.propose(t, g.mls.Add(twin)), "device-unique")
	harness.RequireRule(t, g.commitValue(t, g.mls.Add(twin)), "device-unique")
	harness.RequireRule(t, g.sendCommit(t, g.mallory, mlstest.CommitOptions{Joiner: twin}), "device-unique")
	harness.RequireRule(t, g.sendCommit(t, g.mallory, mlstest.CommitOptions{
		Joiner: twin, Proposals: []*mlstest.Proposal{g.mls.Remove(aliceLeaf)},
	}), "successor")
}

// ghost: mallory adds leaves for devices of alice and of mallory. No device publishes the keys of these leaves.
func ghost(t *testing.T, g *group) {
	for _, name := range [][]byte{mlstest.Identity(g.alice.ID, "PHONE"), mlstest.Identity(g.mallory.ID, "PHONE")} {
		add := g.mls.Add(g.mls.NewClient(name))
		harness.RequireRule(t, g.propose(t, add), "device-key")
		harness.RequireRule(t, g.commitValue(t, add), "device-key")
	}
	joiner := g.mls.NewClient(mlstest.Identity(g.alice.ID, "PHONE"))
	err := g.sendCommit(t, g.mallory, mlstest.CommitOptions{Joiner: joiner})
	harness.RequireRefused(t, err, "M_FORBIDDEN")
}

// removeCreator: mallory removes alice, who has created the room, and bob.
func removeCreator(t *testing.T, g *group) {
	for _, leaf := range []uint32{aliceLeaf, bobLeaf} {
		harness.RequireRule(t, g.propose(t, g.mls.Remove(leaf)), "kick")
		harness.RequireRule(t, g.commitValue(t, g.mls.Remove(leaf)), "kick")
	}
}

// endGroup: mallory proposes and commits a ReInit and a GroupContextExtensions.
func endGroup(t *testing.T, g *group) {
	for _, p := range []*mlstest.Proposal{g.mls.ReInit([]byte("next")), g.mls.SetExtensions(nil)} {
		harness.RequireRule(t, g.propose(t, p), "group-power")
		harness.RequireRule(t, g.commitValue(t, p), "group-power")
	}
	err := g.ask(t, g.mallory, http.MethodDelete, g.path(""), nil, nil)
	harness.RequireRefused(t, err, "M_FORBIDDEN")
}

// poison: mallory sends proposals that nobody could commit. Alice can commit all that the host accepts.
func poison(t *testing.T, g *group) {
	stranger := mlstest.Identity("@nobody:"+g.c.Name, "DEVICE")
	own := g.mls.NewClient(mlstest.Identity(g.mallory.ID, "OLD"))
	for rule, p := range map[string]*mlstest.Proposal{
		"psk-reference":  g.mls.PSK([]byte("psk")),
		"group-power":    g.mls.SetExtensions(nil),
		"joined":         g.mls.Add(g.mls.NewClient(stranger)),
		"leaf-identity":  g.mls.Add(g.mls.NewClient([]byte("nobody"))),
		"lifetime":       g.mls.Add(own.Lasting(1, 2)),
		"lifetime-order": g.mls.Add(own.Lasting(2, 1)),
	} {
		harness.RequireRule(t, g.propose(t, p), rule)
	}
	update := g.mls.Propose(malloryLeaf, g.mls.Update(malloryLeaf))
	if err := g.submit(t, g.mallory, &api.SubmitRequest{Message: update}); err != nil {
		t.Fatal(err)
	}
	harness.RequireRule(t, g.propose(t, g.mls.Update(malloryLeaf)), "proposals-together")
	harness.RequireRule(t, g.propose(t, g.mls.Remove(malloryLeaf)), "proposals-together")
	if err := g.sendCommit(t, g.alice, mlstest.CommitOptions{References: [][]byte{update}}); err != nil {
		t.Errorf("alice's Commit of all pending proposals: %v", err)
	}
}

// listHost replaces g by another group, which lists its host as an external sender.
func (g *group) listHost(t *testing.T) {
	t.Helper()
	var reserved api.ReserveGroupResponse
	g.must(t, g.alice, http.MethodPost, "/groups", &api.ReserveGroupRequest{
		RoomID: g.room, SuiteRequest: api.SuiteRequest{Protocol: protocol, CipherSuite: 1},
	}, &reserved)
	const externalSenders = 5
	var b cryptobyte.Builder
	b.AddUint16(externalSenders)
	wire.AddVector(&b, func(b *cryptobyte.Builder) { wire.AddOpaque(b, reserved.ExternalSender) })
	o := mlstest.Options{GroupID: reserved.GroupID, Extensions: b.BytesOrPanic()}
	for _, u := range []*harness.User{g.alice, g.bob, g.mallory} {
		o.Members = append(o.Members, identity(u))
	}
	g.id, g.mls = reserved.GroupID, mlstest.New(o)
	bind := &api.BindGroupRequest{Protocol: protocol, GroupInfo: g.mls.GroupInfo(), RatchetTree: g.mls.RatchetTree()}
	g.must(t, g.alice, http.MethodPut, g.path(""), bind, nil)
}

// preparedLeaver: mallory sends an Update before the kick. The host's Remove still goes through.
func preparedLeaver(t *testing.T, g *group) {
	g.listHost(t)
	update := g.mls.Propose(malloryLeaf, g.mls.Update(malloryLeaf))
	if err := g.submit(t, g.mallory, &api.SubmitRequest{Message: update}); err != nil {
		t.Fatal(err)
	}
	if err := g.alice.Kick(harness.Within(t), g.room, g.mallory.ID); err != nil {
		t.Fatal(err)
	}
	demand := g.demand(t)
	harness.RequireRule(t, g.sendCommit(t, g.alice, mlstest.CommitOptions{Path: true}), "pending-remove")
	err := g.sendCommit(t, g.alice, mlstest.CommitOptions{References: [][]byte{demand}})
	if err != nil {
		t.Fatal(err)
	}
}

// demand waits for the host's proposal that removes mallory.
func (g *group) demand(t *testing.T) (message []byte) {
	t.Helper()
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
		var log api.MessagesResponse
		if err := g.alice.Do(ctx, http.MethodGet, at(g.host.Name, g.path("/messages")), nil, &log); err != nil {
			return err
		}
		i := slices.IndexFunc(log.Messages, func(m api.LogMessage) bool { return m.Kind == "proposal" && m.Sender == "" })
		if i < 0 {
			return fmt.Errorf("the host has sent no proposal among %d messages", len(log.Messages))
		}
		message = log.Messages[i].Message
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return message
}

// malloryIsOut checks that mallory has no leaf and reads no more than the log up to the removal, and that the others
// can commit and send.
func malloryIsOut(t *testing.T, g *group) {
	if slices.Contains(g.mls.Leaves(), malloryLeaf) {
		t.Error("mallory has a leaf")
	}
	g.commit(t, g.alice, aliceLeaf)
	g.say(t, g.bob)
	for _, route := range []string{"", "/tree?epoch=1"} {
		err := g.ask(t, g.mallory, http.MethodGet, g.path(route), nil, nil)
		harness.RequireRefused(t, err, "M_FORBIDDEN")
	}
	var log api.MessagesResponse
	if err := g.ask(t, g.mallory, http.MethodGet, g.path("/messages"), nil, &log); err != nil {
		t.Fatal(err)
	}
	for _, m := range log.Messages {
		if m.Kind == "application" || m.Epoch+2 > g.mls.Epoch() {
			t.Errorf("mallory reads a message of kind %s of epoch %d", m.Kind, m.Epoch)
		}
	}
}
