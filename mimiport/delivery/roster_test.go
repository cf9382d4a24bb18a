package delivery_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// TestFanOutFollowsTheTree: after any Commits a message goes to the devices of the tree's leaves. That holds for the
// group in memory, after a restart, after a compaction of the log, and at the server that the group moves to.
func TestFanOutFollowsTheTree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := newPlay(t)
		p.allow(serverB, `{"target":"joined_servers"}`)
		p.Room.Power[bob] = 0
		for range rapid.IntRange(1, 6).Draw(rt, "commits") {
			p.commitSomething(rt)
		}
		want := p.devices()
		expect := func(when, ds string) {
			if diff := cmp.Diff(want, p.reached(ds)); diff != "" {
				rt.Fatalf("%s: %s", when, diff)
			}
		}
		expect("in memory", serverA)
		p.Restart(serverA)
		expect("after a restart", serverA)
		p.compact(serverA)
		p.Restart(serverA)
		expect("after compaction", serverA)
		p.move(serverA, serverB, alice)
		expect("after a move", serverB)
		p.Restart(serverB)
		expect("after a move and a restart", serverB)
	})
}

// members maps each leaf of the group to its user and device.
func (p *play) members() map[uint32]string {
	p.t.Helper()
	g := must(mls.RFC9420(mls.DefaultLimits()).Open(p.group.GroupInfo(), p.group.RatchetTree()))(p.t)
	users := make(map[uint32]string)
	for m := range g.Members() {
		id := must(registry.Identity(m))(p.t)
		users[m.Leaf] = id.UserID + " " + id.DeviceID
	}
	return users
}

// devices lists the devices of the tree's leaves.
func (p *play) devices() (devices []string) {
	for _, device := range p.members() {
		devices = append(devices, device)
	}
	slices.Sort(devices)
	return devices
}

// reached lists the devices that a message by alice reaches.
func (p *play) reached(ds string) (devices []string) {
	p.t.Helper()
	p.run()
	p.Got = nil
	p.say(ds, alice)
	p.run()
	for _, d := range p.Got {
		devices = append(devices, d.User+" "+d.Device)
	}
	slices.Sort(devices)
	return devices
}

// commitSomething lets a member or a joining device commit a drawn change.
func (p *play) commitSomething(rt *rapid.T) {
	users := p.members()
	leaves := p.group.Leaves()
	leaf := rapid.SampledFrom(leaves).Draw(rt, "leaf")
	user, device, _ := strings.Cut(users[leaf], " ")
	o := mlstest.CommitOptions{Sender: leafOf[alice], Path: true}
	by := alice
	switch rapid.SampledFrom([]string{"path", "update", "add", "remove", "join", "resync"}).Draw(rt, "change") {
	case "path":
		o.Sender, by = leaf, user
	case "update":
		if leaf == leafOf[alice] {
			return // a committer renews the own leaf by the path
		}
		update := p.group.Propose(leaf, p.group.Update(leaf))
		must(p.submit(serverA, user, &api.SubmitRequest{Message: update}))(p.t)
		o.References = [][]byte{update}
	case "add":
		o.Proposals = []*mlstest.Proposal{p.group.Add(p.newClient(bob, fmt.Sprint("NEW", p.group.Epoch())))}
	case "remove":
		if leaf == leafOf[alice] {
			return
		}
		o.Proposals = []*mlstest.Proposal{p.group.Remove(leaf)}
	case "join":
		o.Joiner, by = p.newClient(bob, fmt.Sprint("NEW", p.group.Epoch())), bob
	case "resync":
		if leaf == leafOf[alice] {
			return
		}
		o.Joiner, by = p.newClient(user, device), user
		o.Proposals = []*mlstest.Proposal{p.group.Remove(leaf)}
	}
	c := p.group.Commit(o)
	must(p.submit(serverA, by, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo, Welcome: c.Welcome}))(p.t)
	p.group = c.Next
}

// compact lets a server store a snapshot of the present epoch.
func (p *play) compact(ds string) {
	p.t.Helper()
	g := must(p.stores[ds].Group(p.t.Context(), p.id))(p.t)
	row := storage.Row{
		Destination: ds, Queue: "compact", Order: g.Version, Kind: storage.RowCompact, GroupID: g.ID, Term: g.Term,
		Due: p.now,
	}
	if err := p.stores[ds].Apply(p.t.Context(), &storage.Change{Rows: []storage.Row{row}}); err != nil {
		p.t.Fatal(err)
	}
	p.run()
	p.now = p.now.Add(time.Second)
}
