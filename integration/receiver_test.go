package integration

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
)

// Profile, section 7: "Receivers may run an unmodified homeserver." A member on a homeserver without the module gets all that is
// fanned out, from the source before the move and from the target after it, and finds the move itself in it.
func TestUnmodifiedReceiver(t *testing.T) {
	x := newTrio(t, harness.Section, harness.Section)
	carol := harness.RegisterUser(t, x.c, "carol", false)
	x.admit(t, carol)
	publishKeyPackage(t, carol)
	do(t, x.alice, "add", harness.Args{"user": carol.ID}, nil)
	x.settle(t)
	x.talk(t)
	do(t, x.bob, "migrate", harness.Args{"target": x.b.Name}, nil)
	x.settle(t)
	x.talk(t)

	fromA, fromB := federation.SenderID(x.a.Name), federation.SenderID(x.b.Name)
	want := []received{
		{fromA, 0, "welcome", ""}, {fromA, 0, "application", ""}, {fromA, 0, "application", ""}, {fromA, 0, "commit", x.b.Name},
		{fromB, 1, "application", ""}, {fromB, 1, "application", ""},
	}
	got := receive(t, carol, len(want))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// publishKeyPackage has a client of the user publish a KeyPackage, and ends it: what comes then is for the test.
func publishKeyPackage(t *testing.T, u *harness.User) {
	t.Helper()
	c := startClient(t, u)
	do(t, c, "publish_key_packages", harness.Args{"n": 1}, nil)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// received is one message of the fan-out. To is where the group goes, of a migration Commit.
type received struct {
	From string
	Term uint64
	Kind string
	To   string
}

// receive takes n messages from a user's to-device events, those of each sender in the order of their numbers.
func receive(t *testing.T, u *harness.User, n int) (all []received) {
	t.Helper()
	next := make(map[string]uint64)
	_, err := u.Await(harness.Within(t), "", func(s *harness.Sync) bool {
		for _, e := range s.ToDevice.Events {
			var m delivery.FanOut
			if e.Type != delivery.EventMessage {
				continue
			}
			if err := json.Unmarshal(e.Content, &m); err != nil {
				t.Error(err)
			}
			if m.Seq < next[e.Sender] {
				t.Errorf("%s sent message %d after %d", e.Sender, m.Seq, next[e.Sender])
			}
			next[e.Sender] = m.Seq
			r := received{From: e.Sender, Term: m.Term, Kind: m.Kind}
			if m.Migration != nil {
				r.To = m.Migration.DeliveryService
			}
			all = append(all, r)
		}
		return len(all) >= n
	})
	if err != nil {
		t.Errorf("%v, after %+v", err, all)
	}
	return all
}
