package harness

import (
	"context"
	"errors"
	"fmt"
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// NATS is a cluster of NATS servers with JetStream.
type NATS []*natsserver.Server

// StartOneNATS starts one server in this process. It ends with the test.
func StartOneNATS(t testing.TB) NATS {
	t.Helper()
	alone := NATS{startNATS(t, natsserver.Options{ServerName: "alone"})}
	alone.requireReady(t)
	return alone
}

// StartNATS starts a cluster of three servers in this process. They end with the test.
func StartNATS(t testing.TB) (cluster NATS) {
	t.Helper()
	ports, routes := make([]int, 3), ""
	for i := range ports {
		port, err := freePort(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = port
		routes += fmt.Sprintf(",nats://127.0.0.1:%d", ports[i])
	}
	for i, port := range ports {
		cluster = append(cluster, startNATS(t, natsserver.Options{
			ServerName: fmt.Sprint("node", i),
			Cluster:    natsserver.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port},
			Routes:     natsserver.RoutesFromStr(routes[1:]),
		}))
	}
	cluster.requireReady(t)
	err := Poll(Within(t), func(context.Context) error {
		for _, s := range cluster {
			if s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == len(cluster) {
				return nil
			}
		}
		return errors.New("the NATS servers have no leader")
	})
	if err != nil {
		t.Fatal(err)
	}
	return cluster
}

// startNATS starts a server that has these options, on a free port.
func startNATS(t testing.TB, o natsserver.Options) *natsserver.Server {
	t.Helper()
	o.Host, o.Port, o.MaxPayload = "127.0.0.1", natsserver.RANDOM_PORT, 8<<20
	o.JetStream, o.StoreDir, o.NoSigs, o.NoLog = true, t.TempDir(), true, true
	s, err := natsserver.NewServer(&o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	s.Start()
	return s
}

// requireReady waits until all servers take connections.
func (c NATS) requireReady(t testing.TB) {
	t.Helper()
	for _, s := range c {
		if !s.ReadyForConnections(Patience) {
			t.Fatal("a NATS server does not start")
		}
	}
}

// Addresses returns the servers' addresses for clients.
func (c NATS) Addresses() (urls []string) {
	for _, s := range c {
		urls = append(urls, s.ClientURL())
	}
	return urls
}

// LoseLeader stops the server that leads a consumer. The server does not come back.
func (c NATS) LoseLeader(t testing.TB, js nats.JetStreamContext, stream, consumer string) {
	t.Helper()
	info, err := js.ConsumerInfo(stream, consumer)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c {
		if s.Name() == info.Cluster.Leader {
			go s.Shutdown()
		}
	}
}

// Replicate replicates a stream to all three servers, and waits until all replicas are current.
func (c NATS) Replicate(t testing.TB, js nats.JetStreamContext, stream string) {
	t.Helper()
	err := Poll(Within(t), func(context.Context) error {
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
			return errors.New("the stream does not have three replicas")
		}
		for _, r := range info.Cluster.Replicas {
			if !r.Current {
				return fmt.Errorf("the replica on %s is behind", r.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
