package integration

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

// soonAfter is the longest time from the return of a database to the first acknowledgement.
const soonAfter = 15 * time.Second

// enough is the number of acknowledgements before the loss, and again after it.
const enough = 40

// TestDatabaseVanishes: the machine with the database is lost and closes no connection. Its standby takes over, at the
// same address or at the second address of the connection string. The homeserver accepts messages again soon, without a
// restart. Every acknowledged message is in the log, and reaches the other member in order. If Dendrite uses the same
// database, its own connections stay lost until it restarts, and so does the delivery to its users. A message that
// Dendrite could not store then may arrive after later ones: NATS gives it to Dendrite again when its time is over.
func TestDatabaseVanishes(t *testing.T) {
	t.Parallel() // a homeserver waits most of the time
	for _, test := range []struct {
		name             string
		twoHosts, shared bool
	}{
		{name: "one address"}, {name: "two hosts", twoHosts: true}, {name: "shared with Dendrite", shared: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			primary := pgtest.Start(t)
			database := primary.Database(t)
			standby := primary.Standby(t)
			address := pgtest.NewProxy(t, primary)
			addresses := []*pgtest.Proxy{address}
			if test.twoHosts {
				addresses = append(addresses, pgtest.NewProxy(t, standby))
			}
			v := newVanishing(t, pgtest.Through(t, database, addresses...), test.shared)
			stop := v.traffic(t)
			v.await(t, enough)

			address.Swallow()
			primary.Kill(t)
			standby.Promote(t)
			if !test.twoHosts {
				address.Lead(standby)
			}
			again := time.Now()
			v.await(t, 1)
			took := time.Since(again)
			t.Logf("the first acknowledgement came after %v", took.Round(time.Millisecond))
			if took > soonAfter {
				t.Errorf("the first acknowledgement took more than %v", soonAfter)
			}
			v.await(t, enough)
			stop()
			if test.shared {
				restart(t, v.alice.Server)
			}
			v.requireAll(t, !test.shared)
		})
	}
}

// vanishing is a homeserver with a database that the test takes away, and two users with groups.
type vanishing struct {
	alice, bob *harness.User
	groups     []*talk
	more       chan struct{}

	mu    sync.Mutex
	acked int
}

// talk is a group in which one member commits again and again.
type talk struct {
	*mlstest.Group
	path string // of the group's messages
	last uint64 // the number of the last acknowledged message
}

// newVanishing starts a homeserver. The database is for the module only, or shared with Dendrite.
func newVanishing(t *testing.T, connection string, shared bool) *vanishing {
	t.Helper()
	network := harness.NewTestNetwork(t)
	section := harness.Section
	if shared {
		network.Postgres = func() string { return connection + "&connect_timeout=3" }
	} else {
		section = strings.Replace(section, `{{.Database "mimi_portability"}}`, connection, 1)
	}
	server := network.StartServer(t, section)
	v := &vanishing{
		alice: harness.RegisterUser(t, server, "alice", false), bob: harness.RegisterUser(t, server, "bob", false),
		more: make(chan struct{}),
	}
	sample := mlstest.New(mlstest.Options{Members: v.identities()}) // all groups have the same seed, so the same keys
	for leaf, u := range []*harness.User{v.alice, v.bob} {
		err := u.PublishKey(harness.Within(t), "ed25519", sample.Client(uint32(leaf)).SignatureKey())
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 8 {
		v.groups = append(v.groups, v.bind(t))
	}
	return v
}

// identities returns the members' identities in the order of their leaves.
func (v *vanishing) identities() [][]byte {
	return [][]byte{
		mlstest.Identity(v.alice.ID, v.alice.DeviceID), mlstest.Identity(v.bob.ID, v.bob.DeviceID),
	}
}

// bind makes a room, and a group of alice and bob in it.
func (v *vanishing) bind(t *testing.T) *talk {
	t.Helper()
	room := harness.SharedRoom(t, v.alice, v.bob)
	var reserved api.ReserveGroupResponse
	groups := clientapi.PathPrefix + "/ds/" + v.alice.Server.Name + "/groups"
	err := v.alice.Do(harness.Within(t), http.MethodPost, groups, &api.ReserveGroupRequest{RoomID: room}, &reserved)
	if err != nil {
		t.Fatal(err)
	}
	g := mlstest.New(mlstest.Options{GroupID: reserved.GroupID, Members: v.identities()})
	path := groups + "/" + url.PathEscape(base64.RawURLEncoding.EncodeToString(reserved.GroupID))
	err = v.alice.Do(harness.Within(t), http.MethodPut, path, &api.BindGroupRequest{
		Protocol: "mls10", GroupInfo: g.GroupInfo(), RatchetTree: g.RatchetTree(),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &talk{Group: g, path: path + "/messages"}
}

// traffic lets alice commit in all groups until stop.
func (v *vanishing) traffic(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for _, g := range v.groups {
		all.Go(func() {
			for ctx.Err() == nil {
				v.commit(ctx, g)
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// commit sends one Commit again and again, until the server acknowledges it.
func (v *vanishing) commit(ctx context.Context, g *talk) {
	c := g.Commit(mlstest.CommitOptions{Sender: 0, Path: true})
	req := &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}
	var answer api.SubmitResponse
	err := harness.Poll(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // as a client does
		defer cancel()
		return v.alice.Do(ctx, http.MethodPost, g.path, req, &answer)
	})
	if err != nil {
		return
	}
	g.Group, g.last = c.Next, answer.Seq
	v.mu.Lock()
	v.acked++
	v.mu.Unlock()
	select {
	case v.more <- struct{}{}:
	default:
	}
}

// await waits for n more acknowledgements.
func (v *vanishing) await(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case <-v.more:
		case <-harness.Within(t).Done():
			t.Fatal("the homeserver accepts nothing")
		}
	}
}

// arrivals are the messages of a group that have arrived.
type arrivals struct {
	all   uint64          // all messages up to this number are there
	early map[uint64]bool // these later ones are there too
}

func (a *arrivals) add(seq uint64) {
	a.early[seq] = true
	for ; a.early[a.all+1]; a.all++ {
		delete(a.early, a.all+1)
	}
}

// requireAll checks that each acknowledged message is in its group's log, and that bob receives them all, and in order
// if that is asked for. A homeserver that was killed delivers again what it had not settled, in order from there. The
// last Commit of a group may be there without an acknowledgement.
func (v *vanishing) requireAll(t *testing.T, inOrder bool) {
	t.Helper()
	got := make(map[*talk]*arrivals)
	for _, g := range v.groups {
		got[g] = &arrivals{early: make(map[uint64]bool)}
	}
	_, err := v.bob.Await(harness.Within(t), "", func(s *harness.Sync) bool {
		for _, e := range s.ToDevice.Events {
			var m api.FanOut
			if e.Type != api.EventMessage || json.Unmarshal(e.Content, &m) != nil {
				continue
			}
			for g, a := range got {
				if !strings.Contains(g.path, url.PathEscape(m.GroupID.String())) {
					continue
				}
				if inOrder && m.Seq > a.all+1 {
					t.Errorf("bob got message %d after %d", m.Seq, a.all)
				}
				a.add(m.Seq)
			}
		}
		for g, a := range got {
			if a.all < g.last {
				return false
			}
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range v.groups {
		for from := uint64(1); from <= g.last; {
			var log api.MessagesResponse
			path := fmt.Sprintf("%s?from=%d&limit=100", g.path, from)
			if err := v.bob.Do(harness.Within(t), http.MethodGet, path, nil, &log); err != nil {
				t.Fatal(err)
			}
			if len(log.Messages) == 0 || log.Messages[0].Seq != from {
				t.Fatalf("the log lacks message %d of %d acknowledged ones", from, g.last)
			}
			from = log.Next
		}
	}
	t.Logf("the server acknowledged %d Commits", v.acked)
}
