// Command demo moves a live MLS group between two real homeservers and back, and shows each step. With -stock synapse
// it shows the whole life of a group with members on a Synapse and on a stock Dendrite. It stops all its processes and
// deletes all its files. It exits with 1 if a step or a check fails.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/scenario"
	"github.com/matrix-org/dendrite/contrib/mimi/internal/needs"
)

// clients start the clients for groups of each protocol.
var clients = map[string]scenario.StartClient{"mls10": scenario.TypeScript, "draft09": draft09.StartClient}

func main() {
	draft09.ServeClient()
	play, err := chosen()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err = run(ctx, play)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// chosen returns the play that the flags name.
func chosen() (func(context.Context, *harness.Network) error, error) {
	protocol := flag.String("protocol", "mls10",
		"mls10 for groups of RFC 9420, or draft09 for groups of github.com/cisco/go-mls")
	stock := flag.String("stock", "", "synapse for members on a Synapse and on a stock Dendrite")
	flag.Parse()
	start, ok := clients[*protocol]
	switch {
	case !ok:
		return nil, fmt.Errorf("the demo has no clients for the protocol %q", *protocol)
	case *stock == "":
		return func(ctx context.Context, n *harness.Network) error { return scenario.Move(ctx, n, start, show) }, nil
	case *stock != "synapse" || *protocol != "mls10":
		return nil, fmt.Errorf("the demo has no members on %q for the protocol %q", *stock, *protocol)
	}
	folder, err := needs.SynapseFolder()
	return func(ctx context.Context, n *harness.Network) error { return life(ctx, n, folder) }, err
}

// life plays scenario.Life with a Synapse, which is installed in a folder, and a stock Dendrite.
func life(ctx context.Context, n *harness.Network, folder string) error {
	synapse, err := n.StartSynapse(ctx, folder)
	if err != nil {
		return err
	}
	dendrite, err := n.Start(ctx, "")
	if err != nil {
		return err
	}
	return scenario.Life(ctx, n, []*harness.Server{synapse, dendrite}, "11", show)
}

func show(line ...any) { fmt.Println(line...) }

func run(ctx context.Context, play func(context.Context, *harness.Network) error) error {
	fmt.Println("building the homeserver; the first build takes a few minutes …")
	return harness.Play(func(n *harness.Network) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		return play(ctx, n)
	})
}
