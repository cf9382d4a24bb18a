package main

import (
	"context"
	"fmt"
	"slices"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rogpeppe/go-internal/testscript"
)

// natsServer DIRECTORY starts a NATS server with a stream of Dendrite's, which keeps one message for a consumer of the
// module and none for one of Dendrite's. It sets NATS to its URL. stop ends it.
func natsServer(ts *testscript.TestScript, _ bool, args []string) {
	server, err := natsserver.NewServer(&natsserver.Options{
		ServerName: "monolith", Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, JetStream: true, StoreDir: ts.MkAbs(args[0]),
		NoSystemAccount: true, NoSigs: true, NoLog: true,
	})
	ts.Check(err)
	go server.Start()
	if !server.ReadyForConnections(natsPatience) {
		ts.Fatalf("NATS does not start")
	}
	started(ts).broker = server
	ts.Defer(server.Shutdown)
	ts.Setenv("NATS", server.ClientURL())
	conn, err := nats.Connect(server.ClientURL())
	ts.Check(err)
	defer conn.Close()
	js, err := conn.JetStream()
	ts.Check(err)
	const stream = "DendriteOutputRoomEvent"
	_, err = js.AddStream(&nats.StreamConfig{Name: stream, Retention: nats.InterestPolicy})
	ts.Check(err)
	for _, name := range []string{"DendriteMimiportRoomServerConsumerPull", "DendriteSyncAPIConsumerPull"} {
		_, err = js.AddConsumer(stream, &nats.ConsumerConfig{Durable: name, AckPolicy: nats.AckExplicitPolicy})
		ts.Check(err)
	}
	_, err = js.Publish(stream, []byte("event"))
	ts.Check(err)
	sub, err := js.PullSubscribe("", "DendriteSyncAPIConsumerPull", nats.Bind(stream, "DendriteSyncAPIConsumerPull"))
	ts.Check(err)
	messages, err := sub.Fetch(1)
	ts.Check(err)
	ts.Check(messages[0].AckSync())
}

// stop ends the NATS server of the script.
func stop(ts *testscript.TestScript, _ bool, _ []string) {
	started(ts).broker.Shutdown()
	started(ts).broker.WaitForShutdown()
}

// consumers DIRECTORY NAME... fails unless the stream in a directory has these consumers, and no message waits.
func consumers(ts *testscript.TestScript, _ bool, args []string) {
	s := &streams{directory: ts.MkAbs(args[0])}
	conn, end, err := s.connect()
	ts.Check(err)
	defer end()
	js, err := conn.JetStream(nats.Context(context.Background()))
	ts.Check(err)
	var found []string
	for name := range js.ConsumerNames("DendriteOutputRoomEvent") {
		found = append(found, name)
	}
	if !slices.Equal(found, args[1:]) {
		ts.Fatalf("the consumers are %q", found)
	}
	info, err := js.StreamInfo("DendriteOutputRoomEvent")
	ts.Check(err)
	if info.State.Msgs > 0 {
		ts.Fatalf("%s", fmt.Sprint(info.State.Msgs, " messages wait for nobody"))
	}
}
