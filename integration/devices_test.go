package integration

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// TestDevices: the device of each leaf publishes its key. The test runs on SQLite and on PostgreSQL.
func TestDevices(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { testDevices(t, harness.NewTestNetwork(t)) })
	t.Run("postgres", func(t *testing.T) { testDevices(t, harness.NewPostgresNetwork(t)) })
}

// roll is a group whose MLS clients are in the test's process.
type roll struct {
	*testing.T
	host *harness.Server
	id   []byte
	mls  *mlstest.Group
	seq  uint64 // the number of the last accepted message
}

func testDevices(t *testing.T, network *harness.TestNetwork) {
	a, b := network.StartServer(t, harness.Section), network.StartServer(t, harness.Section)
	alice, bob := harness.RegisterUser(t, a, "alice", false), harness.RegisterUser(t, b, "bob", false)
	carol, dave := harness.RegisterUser(t, b, "carol", false), harness.RegisterUser(t, a, "dave", false)
	room := harness.SharedRoom(t, alice, dave, bob)
	harness.Admit(t, bob, room, carol)
	phone, err := bob.Login(t.Context(), "PHONE")
	if err != nil {
		t.Fatal(err)
	}
	r := newRoll(t, room, alice, bob, phone, carol, dave)

	ghost := r.mls.NewClient(mlstest.Identity(bob.ID, "GHOST"))
	harness.RequireRule(t, r.add(alice, ghost), "device-key")
	tablet, err := bob.Login(t.Context(), "TABLET")
	if err != nil {
		t.Fatal(err)
	}
	forged, own := r.mls.NewClient(mlstest.Identity(bob.ID, "TABLET")), r.mls.NewClient(mlstest.Identity(bob.ID, "TABLET"))
	r.publish(tablet, own)
	harness.RequireRule(t, r.add(alice, forged), "device-key")
	if err := r.add(alice, own); err != nil {
		t.Fatal(err)
	}

	if err := phone.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.requireRemoved(alice, 2)
	if err := carol.Deactivate(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.requireRemoved(alice, 3)
	if err := dave.Logout(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.requireRemoved(alice, 4)
	var drift api.Drift
	r.must(alice, http.MethodGet, r.path("/drift"), nil, &drift)
	want := api.Drift{
		Epoch: r.mls.Epoch(), Leaves: []api.DriftLeaf{}, WithoutLeaf: []string{dave.ID}, Unasked: []string{},
	}
	if diff := cmp.Diff(want, drift); diff != "" {
		t.Error(diff)
	}
}

// newRoll makes a group of devices at the homeserver of the first one. It checks that the homeserver refuses the group
// while its devices have not published their keys.
func newRoll(t *testing.T, room string, devices ...*harness.User) *roll {
	t.Helper()
	r := &roll{T: t, host: devices[0].Server}
	var reserved api.ReserveGroupResponse
	r.must(devices[0], http.MethodPost, "/groups", &api.ReserveGroupRequest{
		RoomID: room, SuiteRequest: api.SuiteRequest{Protocol: "mls10", CipherSuite: 1},
	}, &reserved)
	r.id = reserved.GroupID
	o := mlstest.Options{GroupID: r.id, Extensions: mlstest.ExternalSenders(reserved.ExternalSender)}
	for _, u := range devices {
		o.Members = append(o.Members, mlstest.Identity(u.ID, u.DeviceID))
	}
	r.mls = mlstest.New(o)
	bind := &api.BindGroupRequest{Protocol: "mls10", GroupInfo: r.mls.GroupInfo(), RatchetTree: r.mls.RatchetTree()}
	err := harness.Poll(harness.Within(t), func(context.Context) error { // until a knows that all have joined the room
		err := r.ask(devices[0], http.MethodPut, r.path(""), bind, nil)
		if harness.RuleOf(err) == "device-key" {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for leaf, u := range devices {
		r.publish(u, r.mls.Client(uint32(leaf)))
	}
	r.must(devices[0], http.MethodPut, r.path(""), bind, nil)
	return r
}

func (r *roll) path(route string) string {
	return "/groups/" + base64.RawURLEncoding.EncodeToString(r.id) + route
}

func (r *roll) ask(u *harness.User, method, route string, in, out any) error {
	return u.Do(harness.Within(r), method, clientapi.PathPrefix+"/ds/"+r.host.Name+route, in, out)
}

func (r *roll) must(u *harness.User, method, route string, in, out any) {
	r.Helper()
	if err := r.ask(u, method, route, in, out); err != nil {
		r.Fatalf("%s %s: %v", method, route, err)
	}
}

func (r *roll) publish(device *harness.User, c *mlstest.Client) {
	r.Helper()
	if err := device.PublishKey(r.Context(), "ed25519", c.SignatureKey()); err != nil {
		r.Fatal(err)
	}
}

// add lets the member at leaf 0 add a client.
func (r *roll) add(u *harness.User, c *mlstest.Client) error {
	return r.commit(u, mlstest.CommitOptions{Path: true, Proposals: []*mlstest.Proposal{r.mls.Add(c)}})
}

func (r *roll) commit(u *harness.User, o mlstest.CommitOptions) error {
	c := r.mls.Commit(o)
	err := r.submit(u, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo, Welcome: c.Welcome})
	if err == nil {
		r.mls = c.Next
	}
	return err
}

func (r *roll) submit(u *harness.User, req *api.SubmitRequest) error {
	var res api.SubmitResponse
	err := r.ask(u, http.MethodPost, r.path("/messages"), req, &res)
	if err == nil {
		r.seq = res.Seq
	}
	return err
}

// requireRemoved waits until the host proposes to remove this leaf and no other. It then commits the proposal, as the
// member at leaf 0.
func (r *roll) requireRemoved(u *harness.User, leaf uint32) {
	r.Helper()
	proposals := r.awaitProposals(u)
	if err := r.commit(u, mlstest.CommitOptions{Path: true, References: proposals}); err != nil {
		r.Fatal(err)
	}
	if c := r.mls.Client(leaf); c != nil || len(proposals) != 1 {
		r.Errorf("leaf %d is still there after %d proposals", leaf, len(proposals))
	}
}

// awaitProposals reads the log as a user, until it has proposals of the present epoch.
func (r *roll) awaitProposals(u *harness.User) (proposals [][]byte) {
	r.Helper()
	err := harness.Poll(harness.Within(r), func(context.Context) error {
		var log api.MessagesResponse
		if err := r.ask(u, http.MethodGet, r.path("/messages"), nil, &log); err != nil {
			return err
		}
		proposals = nil
		for _, m := range log.Messages {
			if m.Kind == "proposal" && m.Epoch == r.mls.Epoch() {
				proposals = append(proposals, m.Message)
			}
		}
		if len(proposals) == 0 {
			return fmt.Errorf("there is no proposal in epoch %d", r.mls.Epoch())
		}
		return nil
	})
	if err != nil {
		r.Fatal(err)
	}
	return proposals
}

// A device on Dendrite whose one-time KeyPackages are used up is added by its KeyPackage of last resort, again and
// again.
func TestLastResort(t *testing.T) {
	n := harness.NewTestNetwork(t)
	a, b := n.StartServer(t, harness.Section), n.StartServer(t, harness.Section)
	alice, bob := harness.RegisterUser(t, a, "alice", false), harness.RegisterUser(t, b, "bob", false)
	p := party.Gather(t, alice, bob) // by the only one-time KeyPackage
	for range 2 {
		harness.Do(t, p.Members[1], "leave", nil, nil)
		harness.Do(t, p.Members[0], "wait_for", harness.Args{"kind": "state", "pending_proposals": 1}, nil)
		harness.Do(t, p.Members[0], "update", nil, nil)
		harness.Do(t, p.Members[1], "wait_for", harness.Args{"kind": "removed"}, nil)
		harness.Do(t, p.Members[0], "add", harness.Args{"user": bob.ID}, nil)
		harness.Do(t, p.Members[1], "wait_for", harness.Args{"kind": "joined"}, nil)
		p.Talk(t)
	}
}
