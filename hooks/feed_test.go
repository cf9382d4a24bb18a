package hooks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/setup/jetstream"
	"github.com/matrix-org/dendrite/setup/process"
)

// TestFeedOutlivesNode: the module goes on reading Dendrite's events after the NATS server that leads its consumer is
// lost, and misses nothing of before, during and after. Dendrite's own helper would end this process.
func TestFeedOutlivesNode(t *testing.T) {
	cluster := startCluster(t)
	cfg := testConfig(t, "a.example")
	cfg.Global.JetStream.Matrix, cfg.Global.JetStream.DisableTLSValidation = &cfg.Global, false
	for _, s := range cluster {
		cfg.Global.JetStream.Addresses = append(cfg.Global.JetStream.Addresses, s.ClientURL())
	}
	d := &Deps{Config: cfg, NATS: new(jetstream.NATSInstance), Process: process.NewProcessContext()}
	t.Cleanup(d.Process.ShutdownDendrite)
	js, _ := d.NATS.Prepare(d.Process, &cfg.Global.JetStream)
	stream := cfg.Global.JetStream.Prefixed(jetstream.OutputRoomEvent)
	replicate(t, js, stream)

	seen := make(chan string, 100)
	w := &watcher{
		read: func(m *nats.Msg) (string, bool) { return string(m.Data), true },
		changed: func(_ context.Context, id string) error {
			seen <- id
			return nil
		},
	}
	if err := w.follow(d, jetstream.OutputRoomEvent, "Test", newLogger()); err != nil {
		t.Fatal(err)
	}
	tell := func(id string) {
		t.Helper()
		err := harness.Poll(harness.Within(t), func(ctx context.Context) error {
			_, err := js.Publish(stream, []byte(id), nats.MsgId(id), nats.Context(ctx))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	await := func(id string) {
		t.Helper()
		for {
			select {
			case got := <-seen:
				if got == id {
					return
				}
			case <-harness.Within(t).Done():
				t.Fatalf("%s was never noted", id)
			}
		}
	}
	tell("before")
	await("before")
	info, err := js.ConsumerInfo(stream, cfg.Global.JetStream.Durable("Test")+"Pull")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range cluster {
		if s.Name() == info.Cluster.Leader {
			go s.Shutdown()
		}
	}
	tell("during")
	await("during")
	tell("after")
	await("after")
}

// startCluster starts three NATS servers with JetStream that know each other.
func startCluster(t *testing.T) (cluster []*natsserver.Server) {
	t.Helper()
	ports, routes := make([]int, 3), ""
	for i := range ports {
		ports[i] = freePort(t)
		routes += fmt.Sprintf(",nats://127.0.0.1:%d", ports[i])
	}
	for i, port := range ports {
		s, err := natsserver.NewServer(&natsserver.Options{
			ServerName: fmt.Sprint("node", i), Host: "127.0.0.1", Port: natsserver.RANDOM_PORT,
			JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true, MaxPayload: 8 << 20,
			Cluster: natsserver.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port},
			Routes:  natsserver.RoutesFromStr(routes[1:]),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			s.Shutdown()
			s.WaitForShutdown()
		})
		s.Start()
		cluster = append(cluster, s)
	}
	for _, s := range cluster {
		if !s.ReadyForConnections(harness.Patience) {
			t.Fatal("NATS does not start")
		}
	}
	err := harness.Poll(harness.Within(t), func(context.Context) error {
		for _, s := range cluster {
			if s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == len(cluster) {
				return nil
			}
		}
		return errors.New("the servers have no leader")
	})
	if err != nil {
		t.Fatal(err)
	}
	return cluster
}

// replicate has a stream on all three servers.
func replicate(t *testing.T, js nats.JetStreamContext, stream string) {
	t.Helper()
	err := harness.Poll(harness.Within(t), func(context.Context) error {
		info, err := js.StreamInfo(stream)
		if err != nil {
			return err
		}
		if info.Config.Replicas != 3 {
			info.Config.Replicas = 3
			if info, err = js.UpdateStream(&info.Config); err != nil {
				return err
			}
		}
		if info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != 2 {
			return errors.New("the stream has no three replicas")
		}
		for _, r := range info.Cluster.Replicas {
			if !r.Current {
				return fmt.Errorf("%s is behind", r.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// freePort finds a TCP port on loopback.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
