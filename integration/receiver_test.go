package integration

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// Profile, section 7: "Receivers may run an unmodified homeserver." A member on a homeserver without the module
// receives the whole fan-out: from the source before the move, from the target after it. It includes the migration
// Commit.
func TestUnmodifiedReceiver(t *testing.T) {
	n := harness.NewTestNetwork(t)
	p := newPairAt(t, n.StartServer(t, harness.Section), n.StartServer(t, harness.Section))
	p.requireReceives(t, n.StartServer(t, ""))
}

// requireReceives adds carol, a user of the server s. The members send, move the group from alice's server to bob's,
// and send again. It checks that carol receives all of these messages.
func (p *pair) requireReceives(t *testing.T, s *harness.Server) {
	t.Helper()
	carol := harness.RegisterUser(t, s, "carol", false)
	harness.Admit(t, p.alice.User, p.Room, carol)
	publishKeyPackage(t, carol)
	harness.Do(t, p.alice, "add", harness.Args{"user": carol.ID}, nil)
	p.RequireSettled(t)
	p.Talk(t)
	a, b := p.alice.User.Server, p.bob.User.Server
	p.Move(t, p.bob, b)
	p.RequireSettled(t)
	p.Talk(t)

	want := map[string][]received{
		federation.SenderID(a.Name): {
			{0, "welcome", ""}, {0, "application", ""}, {0, "application", ""}, {0, "commit", b.Name},
		},
		federation.SenderID(b.Name): {{1, "application", ""}, {1, "application", ""}},
	}
	if diff := cmp.Diff(want, receive(t, carol, 6)); diff != "" {
		t.Error(diff)
	}
}

// publishKeyPackage starts a client, which publishes a KeyPackage for the user, and stops it. The test can then read
// the user's events.
func publishKeyPackage(t *testing.T, u *harness.User) {
	t.Helper()
	c := harness.StartTestClient(t, u)
	harness.Do(t, c, "publish_key_packages", nil, nil)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// received is one message of the fan-out. For a migration Commit, To is the target.
type received struct {
	Term uint64
	Kind string
	To   string
}

// receive returns n messages from a user's to-device events, by sender.
func receive(t *testing.T, u *harness.User, n int) map[string][]received {
	t.Helper()
	bySender := make(map[string][]received)
	for _, e := range takeEvents(t, u, n) {
		r := received{Term: e.Term, Kind: e.Kind}
		if e.Migration != nil {
			r.To = e.Migration.DeliveryService
		}
		bySender[e.Sender] = append(bySender[e.Sender], r)
	}
	return bySender
}

// event is a to-device event of a Delivery Service's user.
type event struct {
	Sender string
	api.FanOut
}

// takeEvents returns n messages from a user's to-device events. It checks that the messages of each sender come in the
// order of their numbers. A homeserver may repeat a message.
func takeEvents(t *testing.T, u *harness.User, n int) []event {
	t.Helper()
	var taken []event
	last := make(map[string]uint64)
	_, err := u.Await(harness.Within(t), "", func(s *harness.Sync) bool {
		for _, e := range s.ToDevice.Events {
			var m api.FanOut
			if err := json.Unmarshal(e.Content, &m); err != nil || e.Type != api.EventMessage {
				t.Errorf("got %s: %v", e.Type, err)
			}
			if m.Seq < last[e.Sender] {
				t.Errorf("%s sent message %d after %d", e.Sender, m.Seq, last[e.Sender])
			}
			if m.Seq > last[e.Sender] {
				last[e.Sender] = m.Seq
				taken = append(taken, event{e.Sender, m})
			}
		}
		return len(taken) >= n
	})
	if err != nil {
		t.Error(err)
	}
	return taken
}
