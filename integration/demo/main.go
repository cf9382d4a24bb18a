// Command demo moves a live MLS group between two real homeservers and back, and shows each step. With -stock synapse
// it shows the whole life of a group with members on a Synapse and on a stock Dendrite. It leaves nothing running and
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
	"github.com/matrix-org/dendrite/contrib/mimi/internal/needs"
)

// clients are the clients of each kind of group.
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

// chosen is the play that the flags name.
func chosen() (func(context.Context, *harness.Network) error, error) {
	protocol := flag.String("protocol", "mls10",
		"mls10 for groups of RFC 9420, or draft09 for groups of github.com/cisco/go-mls")
	stock := flag.String("stock", "", "synapse for members on a Synapse and on a stock Dendrite besides")
	flag.Parse()
	start, ok := clients[*protocol]
	switch {
	case !ok:
		return nil, fmt.Errorf("no clients for protocol %q", *protocol)
	case *stock == "":
		return func(ctx context.Context, n *harness.Network) error { return scenario.Move(ctx, n, start, show) }, nil
	case *stock != "synapse" || *protocol != "mls10":
		return nil, fmt.Errorf("no members on %q in groups of protocol %q", *stock, *protocol)
	}
	folder, err := needs.SynapseFolder()
	return func(ctx context.Context, n *harness.Network) error { return life(ctx, n, folder) }, err
}

// life plays with a Synapse, installed in a folder, and a stock Dendrite.
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

func run(ctx context.Context, play func(context.Context, *harness.Network) error) (err error) {
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
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	return play(ctx, n)
}
