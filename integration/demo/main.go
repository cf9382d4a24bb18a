// Command demo moves a live MLS group between two real homeservers and back, and shows each step. It leaves nothing running and
// no file behind, and exits with 1 when anything is not as it should be.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/scenario"
)

// clients are the clients of each kind of group.
var clients = map[string]scenario.StartClient{"mls10": scenario.TypeScript, "draft09": draft09.StartClient}

func main() {
	draft09.ServeClient()
	protocol := flag.String("protocol", "mls10", "mls10 for groups of RFC 9420, or draft09 for groups of github.com/cisco/go-mls")
	flag.Parse()
	start, ok := clients[*protocol]
	if !ok {
		fmt.Fprintf(os.Stderr, "demo: no clients for protocol %q\n", *protocol)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, start)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, start scenario.StartClient) (err error) {
	dir, err := os.MkdirTemp("", "mimiport-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, harness.RemoveBinary(), os.RemoveAll(dir)) }()
	fmt.Println("building the homeserver (the first time takes a few minutes) …")
	n, err := harness.NewNetwork(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return scenario.Move(ctx, n, start, func(line ...any) { fmt.Println(line...) })
}
