package openmls_test

import (
	"os"
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/audit"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/openmls"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
	"github.com/matrix-org/dendrite/contrib/mimi/internal/needs"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
)

func TestMain(m *testing.M) { os.Exit(harness.Run(m)) }

// mixed is a group with members on ts-mls and on OpenMLS, at servers A and B.
type mixed struct {
	*testing.T
	*party.Party
	a, b *harness.Server
}

// requireOK fails the test unless err is nil.
func (x *mixed) requireOK(err error) {
	x.Helper()
	if err != nil {
		x.Fatal(err)
	}
}

// register makes an account at a server, and lets the user join the room.
func (x *mixed) register(by *harness.Client, s *harness.Server, localpart string) *harness.User {
	x.Helper()
	u := harness.RegisterUser(x, s, localpart, false)
	harness.Admit(x, by.User, x.Room, u)
	return u
}

// add lets a member add a client, which joins by the Welcome.
func (x *mixed) add(by, c *harness.Client) {
	x.Helper()
	harness.Do(x, c, "publish_key_packages", nil, nil)
	harness.Do(x, by, "add", harness.Args{"user": c.User.ID}, nil)
	harness.Do(x, c, "join", nil, nil)
	x.Members = append(x.Members, c)
}

// leaves deletes a client from the list of members.
func (x *mixed) leaves(c *harness.Client) {
	x.Members = slices.DeleteFunc(x.Members, func(m *harness.Client) bool { return m == c })
}

// requireSame fails the test unless all members and a server have the same group, in this term, and the members have
// the same secrets.
func (x *mixed) requireSame(ds *harness.Server, term uint64) {
	x.Helper()
	at := x.RequireAt(x, ds, term)
	if len(at.Members) != len(x.Members) {
		x.Fatalf("the group has %d members, not %d", len(at.Members), len(x.Members))
	}
	var first string
	for _, c := range x.Members {
		var secret string
		harness.Do(x, c, "export_secret", harness.Args{"label": "exporter", "length": 32}, &secret)
		if first == "" {
			first = secret
		}
		if len(secret) != 64 || secret != first {
			x.Errorf("%s and %s export different secrets", c.Name, x.Members[0].Name)
		}
	}
}

// commitsRemoval lets a member commit the pending Remove of another member.
func (x *mixed) commitsRemoval(committer, gone *harness.Client) {
	x.Helper()
	harness.Do(x, committer, "wait_for", harness.Args{"kind": "state", "pending_proposals": 1}, nil)
	harness.Do(x, committer, "update", nil, nil)
	x.leaves(gone)
}

// TestOpenMLSMember: clients with OpenMLS and clients with ts-mls are members of one group. Clients with OpenMLS join
// by Welcome and by external Commit, and replace their former leaf. Their GroupInfos include the tree. They follow a
// move and a move back, and commit Removes proposed by the Delivery Service and by a member. All members and the
// Delivery Service agree on each epoch.
func TestOpenMLSMember(t *testing.T) {
	needs.OpenMLS(t)
	servers := harness.StartServers(t, 2)
	alice, bob := harness.RegisterUser(t, servers[0], "alice", false), harness.RegisterUser(t, servers[1], "bob", false)
	x := &mixed{T: t, Party: party.Gather(t, alice, bob), a: servers[0], b: servers[1]}
	byA, byB := x.Members[0], x.Members[1]

	carol := harness.RunClient(t, x.register(byA, x.a, "carol"), openmls.StartClient)
	x.add(byA, carol)
	x.requireSame(x.a, 0)
	x.Talk(t)

	dave := harness.RunClient(t, x.register(byB, x.b, "dave"), openmls.StartClient)
	enter := harness.Args{"room": x.Room}
	if err := dave.Do(harness.Within(t), "rejoin", enter, nil); err == nil {
		t.Error("core-crypto joined by a GroupInfo without the tree")
	}
	harness.Do(t, carol, "update", nil, nil)
	x.requireSame(x.a, 0)
	harness.Do(t, dave, "rejoin", enter, nil)
	x.Members = append(x.Members, dave)
	x.requireSame(x.a, 0)
	harness.Do(t, carol, "rejoin", enter, nil)
	x.requireSame(x.a, 0)
	x.Talk(t)

	erin := harness.StartTestClient(t, x.register(byA, x.a, "erin"))
	x.add(carol, erin)
	x.requireSame(x.a, 0)
	x.Talk(t)
	x.requireOK(alice.SetPowerLevel(harness.Within(t), x.Room, carol.User.ID, 50))
	harness.Do(t, carol, "remove", harness.Args{"user": erin.User.ID}, nil)
	x.leaves(erin)
	x.requireSame(x.a, 0)

	x.Move(t, byB, x.b)
	x.requireSame(x.b, 1)
	x.Talk(t)
	harness.Do(t, carol, "update", nil, nil)
	x.requireSame(x.b, 1)
	x.requireOK(bob.Kick(harness.Within(t), x.Room, dave.User.ID))
	x.commitsRemoval(carol, dave)
	x.requireSame(x.b, 1)

	x.Move(t, byA, x.a)
	x.requireSame(x.a, 2)
	x.Talk(t)
	harness.Do(t, byB, "leave", nil, nil)
	x.commitsRemoval(carol, byB)
	x.requireSame(x.a, 2)
	x.audit(map[*harness.Server]migration.GroupState{x.a: migration.GroupActive, x.b: migration.GroupMoved})
}

// audit stops servers and checks their databases.
func (x *mixed) audit(want map[*harness.Server]migration.GroupState) {
	x.Helper()
	for s, want := range want {
		x.requireOK(s.Stop())
		if state := audit.Check(x, s.Name, s.Store(), mls.RFC9420(mls.DefaultLimits())); state != want {
			x.Errorf("at %s the group is %s", s.Name, state)
		}
	}
}

// TestCoreCryptoGroup: core-crypto creates a group. All its GroupInfos include the tree. The group works after a
// restart of its server. The group has the Delivery Service's key under another name. It requires that every leaf
// supports X.509 credentials, so a member cannot add devices with ts-mls.
func TestCoreCryptoGroup(t *testing.T) {
	needs.OpenMLS(t)
	servers := harness.StartServers(t, 2)
	u, v := harness.RegisterUser(t, servers[0], "carol", false), harness.RegisterUser(t, servers[1], "dave", false)
	room := harness.SharedRoom(t, u, v)
	carol, dave := harness.RunClient(t, u, openmls.StartClient), harness.RunClient(t, v, openmls.StartClient)
	p, err := party.Create(harness.Within(t), carol, room)
	if err != nil {
		t.Fatal(err)
	}
	x := &mixed{T: t, Party: p, a: servers[0], b: servers[1]}
	x.add(carol, dave)
	x.Talk(t)
	x.requireOK(x.a.Stop())
	x.requireOK(x.a.Start(t.Context()))
	harness.Do(t, dave, "update", nil, nil)
	x.Talk(t)

	var ds api.GroupResponse
	harness.Do(t, carol, "ds_info", harness.Args{"ds": x.a.Name}, &ds)
	g, err := mls.RFC9420(mls.DefaultLimits()).Open(ds.GroupInfo, nil)
	if err != nil {
		t.Fatal(err)
	}
	if e := g.ExternalSenders(); len(e) != 1 || string(e[0].Identity) != "wire-server" {
		t.Errorf("the external senders are %q", e)
	}
	erin := harness.StartTestClient(t, x.register(carol, x.a, "erin"))
	harness.Do(t, erin, "publish_key_packages", nil, nil)
	if err := carol.Do(harness.Within(t), "add", harness.Args{"user": erin.User.ID}, nil); err == nil {
		t.Error("core-crypto added a leaf without X.509 credentials to its own group")
	}
	x.Talk(t)
}
