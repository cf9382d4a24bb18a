package kill

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
)

// TestNATSServerLost: of three NATS servers the one is lost that leads the module's consumer. All of Dendrite's streams
// have three replicas. A supervisor restarts the homeserver when it ends, or warns that it does not read a stream any
// more. A member who is kicked before, meanwhile or afterwards is removed from the group.
func TestNATSServerLost(t *testing.T) {
	if os.Getenv(soakEnv) == "" {
		return
	}
	cluster := harness.StartNATS(t)
	network := harness.NewTestNetwork(t)
	network.NATS = cluster.Addresses()
	server, err := network.Start(t.Context(), section) // this start may fail
	if server == nil {
		t.Fatal(err)
	}
	harness.ShowLog(t, server)
	// Dendrite does not wait until the streams that it has made have leaders. The fork then makes some in memory, and
	// makes these anew at the next start.
	kill(t, server)
	insist(t, server)
	js := replicateAll(t, cluster)
	kill(t, server) // NATS refuses fetches while consumers get their replicas
	insist(t, server)
	supervise(t, server)

	alice := harness.RegisterUser(t, server, "alice", false)
	room, err := alice.CreateRoom(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := party.Create(harness.Within(t), harness.StartTestClient(t, alice), room)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"before", "during", "after"} {
		u := harness.RegisterUser(t, server, name, false)
		harness.Admit(t, alice, room, u)
		if err := p.Add(harness.Within(t), harness.StartTestClient(t, u)); err != nil {
			t.Fatal(err)
		}
	}
	requireRemoved(t, p, p.Members[1].User, 3)
	cluster.LoseLeader(t, js, "DendriteOutputRoomEvent", "DendriteMimiportRoomServerConsumerPull")
	requireRemoved(t, p, p.Members[2].User, 2)
	requireRemoved(t, p, p.Members[3].User, 1)
}

// insist starts a homeserver until it serves, and reads all its streams.
func insist(t *testing.T, s *harness.Server) {
	t.Helper()
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
		before := warnings(t, s)
		if err := s.Start(ctx); err != nil {
			return err
		}
		if warnings(t, s) == before {
			return nil
		}
		return errors.Join(errors.New("readers of the homeserver's have stopped"), s.Kill())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// supervise starts a homeserver again whenever it ends, until the test ends. It also ends a homeserver that warns of
// readers that have stopped for good: Dendrite would go on without them.
func supervise(t *testing.T, s *harness.Server) {
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for seen := warnings(t, s); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if warnings(t, s) == seen {
					continue
				}
				t.Logf("readers of the homeserver's have stopped: %v", s.Kill())
				seen = warnings(t, s)
			case <-s.Exited():
			}
			err := s.Start(ctx)
			t.Logf("the homeserver has ended and was started again: %t", err == nil)
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
}

// warnings counts the warnings in a homeserver's log of readers that have stopped for good.
func warnings(t *testing.T, s *harness.Server) (n int) {
	log, err := os.ReadFile(s.LogFile())
	if err != nil {
		t.Error(err)
	}
	for _, line := range []string{
		"nats server shutting down",      // Dendrite v0.13.8, connected to the server that shuts down
		"Error on pull subscriber fetch", // the fork, on any refusal
	} {
		n += bytes.Count(log, []byte(line))
	}
	return n
}

// replicateAll puts all streams of a homeserver on all servers.
func replicateAll(t *testing.T, cluster harness.NATS) nats.JetStreamContext {
	t.Helper()
	nc, err := nats.Connect(strings.Join(cluster.Addresses(), ","))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	for stream := range js.StreamNames() {
		cluster.Replicate(t, js, stream)
	}
	return js
}

// requireRemoved lets the group's creator kick a member from the room, and waits until the host proposes to remove the
// member. Then the creator commits, which leaves so many members.
func requireRemoved(t *testing.T, p *party.Party, u *harness.User, left int) {
	t.Helper()
	alice := p.Members[0]
	err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
		patience, cancel := context.WithTimeout(ctx, 5*time.Second) // as a client does
		defer cancel()
		err := alice.User.Kick(patience, p.Room, u.ID)
		if harness.CodeOf(err) == "M_UNKNOWN" { // "cannot /kick banned or left users"
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	harness.Do(t, alice, "wait_for", harness.Args{"kind": "state", "pending_proposals": 1}, nil)
	harness.Do(t, alice, "update", nil, nil)
	if at := harness.State(t, alice); len(at.Members) != left {
		t.Errorf("there are %d members after %s was kicked, want %d", len(at.Members), u.ID, left)
	}
}
