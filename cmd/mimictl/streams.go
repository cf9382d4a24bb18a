package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// ours begins the names of the module's consumers, after the prefix of the homeserver (docs/operator.md).
const ours = "Mimiport"

// natsPatience is the longest wait for NATS.
const natsPatience = 30 * time.Second

// streams are the streams of a homeserver, in a NATS server or in the directory of the NATS inside Dendrite. Without
// either there are none.
type streams struct {
	url, credentials string
	directory        string
	prefix           string
}

// consumer is one of the module's consumers.
type consumer struct{ stream, name string }

func (c consumer) String() string { return c.name + " of stream " + c.stream }

// list lists the module's consumers. It only reads the names of files in a directory, since Dendrite may use it.
func (s *streams) list(ctx context.Context) (found []consumer, err error) {
	if s.directory == "" {
		return s.each(ctx, func(nats.JetStreamContext, consumer) error { return nil })
	}
	if _, err := os.Stat(filepath.Join(s.directory, "jetstream")); err != nil {
		return nil, fmt.Errorf("-jetstream: %w", err)
	}
	pattern := filepath.Join("jetstream", "*", "streams", s.prefix+"*", "obs", s.prefix+ours+"*")
	paths, err := filepath.Glob(filepath.Join(s.directory, pattern))
	for _, p := range paths {
		found = append(found, consumer{filepath.Base(filepath.Dir(filepath.Dir(p))), filepath.Base(p)})
	}
	return found, err
}

// remove removes the module's consumers, and with them the messages that wait for nobody else.
func (s *streams) remove(ctx context.Context) ([]consumer, error) {
	if s.directory != "" {
		if found, err := s.list(ctx); err != nil || len(found) == 0 {
			return nil, err
		}
	}
	return s.each(ctx, func(js nats.JetStreamContext, c consumer) error { return js.DeleteConsumer(c.stream, c.name) })
}

// each calls do for each of the module's consumers, and returns those for which do did not fail.
func (s *streams) each(
	ctx context.Context, do func(nats.JetStreamContext, consumer) error,
) (done []consumer, err error) {
	if s.url == "" && s.directory == "" {
		return nil, nil
	}
	conn, stop, err := s.connect()
	if err != nil {
		return nil, fmt.Errorf("NATS: %w", err)
	}
	defer stop()
	js, err := conn.JetStream(nats.MaxWait(natsPatience), nats.Context(ctx))
	if err != nil {
		return nil, err
	}
	for stream := range js.StreamNames() {
		if !strings.HasPrefix(stream, s.prefix) {
			continue
		}
		for name := range js.ConsumerNames(stream) {
			if !strings.HasPrefix(name, s.prefix+ours) {
				continue
			}
			c := consumer{stream, name}
			if err := do(js, c); err != nil {
				return done, fmt.Errorf("NATS: %s: %w", c, err)
			}
			done = append(done, c)
		}
	}
	return done, nil
}

// connect connects to the NATS server, or starts one in the directory as Dendrite does. stop ends both.
func (s *streams) connect() (conn *nats.Conn, stop func(), err error) {
	if s.url != "" {
		var options []nats.Option
		if s.credentials != "" {
			options = append(options, nats.UserCredentials(s.credentials))
		}
		conn, err = nats.Connect(s.url, options...)
		return conn, func() { conn.Close() }, err
	}
	server, err := natsserver.NewServer(&natsserver.Options{
		ServerName: "monolith", DontListen: true, JetStream: true, StoreDir: s.directory, NoSystemAccount: true,
		NoSigs: true, NoLog: true, SyncAlways: true,
	})
	if err != nil {
		return nil, nil, err
	}
	go server.Start()
	end := func() {
		server.Shutdown()
		server.WaitForShutdown()
	}
	if !server.ReadyForConnections(natsPatience) {
		end()
		return nil, nil, errors.New("the server does not start")
	}
	if conn, err = nats.Connect("", nats.InProcessServer(server)); err != nil {
		end()
		return nil, nil, err
	}
	return conn, func() { conn.Close(); end() }, nil
}
