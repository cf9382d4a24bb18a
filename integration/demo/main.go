// Command demo moves a live MLS group between two real homeservers and back, and shows each step. It leaves nothing running and
// no file behind, and exits with 1 when anything is not as it should be.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/scenario"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
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
	return scenario.Move(ctx, n, func(line string) { fmt.Println(line) })
}
