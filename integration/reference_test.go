package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// inline is the size of the largest message that travels inside its event (profile, section 7).
const inline = 32 << 10

// TestByReference: a Commit and its Welcome add members, up to 304, and are too large for an event. Members on a
// Dendrite and a Synapse without the module read them by direct requests. A member who has left reads the Commit that
// removes them in the same way. The largest message that fits into an event comes in an event.
func TestByReference(t *testing.T) {
	n := harness.NewTestNetwork(t)
	a, stock := n.StartServer(t, harness.Section), []*harness.Server{n.StartSynapse(t), n.StartServer(t, "")}
	alice, erin := harness.RegisterUser(t, a, "alice", false), harness.RegisterUser(t, a, "erin", false)
	var joiners, leavers []*harness.User
	for _, s := range stock {
		joiners = append(joiners, harness.RegisterUser(t, s, "carol", false))
		leavers = append(leavers, harness.RegisterUser(t, s, "dave", false))
	}
	room := harness.SharedRoom(t, alice, joiners...)
	for i, dave := range leavers {
		harness.Admit(t, joiners[i], room, dave)
	}
	r := newRoll(t, room, append([]*harness.User{alice}, leavers...)...)
	added := r.devices(erin, 299)
	harness.Admit(t, alice, room, erin) // now, so that no server receives a list update for each of her devices
	var carols, daves []*reader
	for i, u := range joiners {
		carol := r.mls.NewClient(mlstest.Identity(u.ID, u.DeviceID))
		r.publish(u, carol)
		added = append(added, r.mls.Add(carol))
		carols, daves = append(carols, newReader(u, carol)), append(daves, newReader(leavers[i], r.mls.Client(uint32(i+1))))
	}

	commit := r.mls.Commit(mlstest.CommitOptions{Path: true, Proposals: added})
	req := &api.SubmitRequest{Message: commit.Message, GroupInfo: commit.GroupInfo, Welcome: commit.Welcome}
	if err := r.submit(alice, req); err != nil || len(commit.Message) <= inline || len(commit.Welcome) <= inline {
		t.Fatalf("a Commit of %d bytes with a Welcome of %d: %v", len(commit.Message), len(commit.Welcome), err)
	}
	r.mls = commit.Next
	for i := range stock {
		carols[i].requireReads(r, r.seq+1, commit.Welcome)
		carols[i].requireTree(r)
		daves[i].requireReads(r, r.seq, commit.Message)
	}
	framing := len(r.mls.Application(nil, inline)) - inline
	for _, size := range []int{inline, inline + 1} {
		message := r.mls.Application(nil, size-framing)
		if err := r.submit(alice, &api.SubmitRequest{Message: message}); err != nil {
			t.Fatal(err)
		}
		for i := range stock {
			carols[i].requireReads(r, r.seq, message)
			daves[i].requireReads(r, r.seq, message)
		}
	}
	for i, dave := range daves {
		if err := dave.Leave(t.Context(), room); err != nil {
			t.Fatal(err)
		}
		last := r.mls.Commit(mlstest.CommitOptions{
			Path: true, References: r.awaitProposals(alice), AuthenticatedData: make([]byte, inline),
		})
		if err := r.submit(alice, &api.SubmitRequest{Message: last.Message, GroupInfo: last.GroupInfo}); err != nil {
			t.Fatal(err)
		}
		r.mls = last.Next
		dave.requireReads(r, r.seq, last.Message)
		carols[i].requireReads(r, r.seq, last.Message)
		harness.RequireRefused(t, dave.Ask(t.Context(), a, http.MethodGet, r.path(""), nil, nil), "M_FORBIDDEN")
	}
}

// devices logs a user in on n more devices that publish keys, and returns a proposal to add each.
func (r *roll) devices(u *harness.User, n int) (proposals []*mlstest.Proposal) {
	r.Helper()
	for i := range n {
		device, err := u.Login(r.Context(), fmt.Sprint("DEVICE", i))
		if err != nil {
			r.Fatal(err)
		}
		client := r.mls.NewClient(mlstest.Identity(u.ID, device.DeviceID))
		r.publish(device, client)
		proposals = append(proposals, r.mls.Add(client))
	}
	return proposals
}

// reader is a device that reads its events, and makes direct requests.
type reader struct {
	*harness.Device
	since  string
	events map[uint64]api.FanOut // by number; there is only one term
}

func newReader(u *harness.User, c *mlstest.Client) *reader {
	device := &harness.Device{User: u, Scheme: "ed25519", Sign: c.SignContent}
	return &reader{Device: device, events: make(map[uint64]api.FanOut)}
}

// requireReads waits for the event of a message. It fails the test unless a message of at most inline bytes is in the
// event, and a larger message in the log.
func (d *reader) requireReads(r *roll, seq uint64, want []byte) {
	r.Helper()
	got := d.event(r, seq).LogMessage
	if (len(got.Message) > 0) != (len(want) <= inline) {
		r.Errorf("the event of a message of %d bytes has %d bytes of it", len(want), len(got.Message))
	}
	if len(got.Message) == 0 {
		var log api.MessagesResponse
		err := d.Ask(harness.Within(r), r.host, http.MethodGet, r.path(fmt.Sprint("/messages?limit=1&from=", seq)), nil, &log)
		if err != nil || len(log.Messages) != 1 {
			r.Fatalf("message %d: %+v, %v", seq, log, err)
		}
		got = log.Messages[0]
	}
	if got.Seq != seq || !bytes.Equal(got.Message, want) {
		r.Errorf("the log has message %d of %d bytes as message %d of %d bytes", seq, len(want), got.Seq, len(got.Message))
	}
}

// requireTree fails the test unless the device can read the ratchet tree of the present epoch.
func (d *reader) requireTree(r *roll) {
	r.Helper()
	tree, err := d.Request(r.Context(), r.host, http.MethodGet, r.path(fmt.Sprint("/tree?epoch=", r.mls.Epoch())), nil)
	if err != nil {
		r.Fatal(err)
	}
	if status, body := send(r.T, tree); status != http.StatusOK || !bytes.Equal(body, r.mls.RatchetTree()) {
		r.Errorf("the ratchet tree: %d, %d bytes", status, len(body))
	}
}

// event waits for the event of a message.
func (d *reader) event(r *roll, seq uint64) api.FanOut {
	r.Helper()
	arrived := func() bool { _, ok := d.events[seq]; return ok }
	if arrived() {
		return d.events[seq]
	}
	since, err := d.Await(harness.Within(r), d.since, func(s *harness.Sync) bool {
		for _, e := range s.ToDevice.Events {
			var m api.FanOut
			if err := json.Unmarshal(e.Content, &m); err != nil {
				r.Error(err)
			}
			d.events[m.Seq] = m
		}
		return arrived()
	})
	if err != nil {
		r.Fatal(err)
	}
	d.since = since
	return d.events[seq]
}
