// Command demoweb shows a move of a live MLS group on a web page: two chats, the two real homeservers between them, and
// the draft's seven messages as they pass. Buttons pause, kill and disconnect the servers. It serves the page on
// loopback until it is interrupted. Then it stops all its processes and deletes all its files.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

func main() {
	pace := flag.Duration("pace", 500*time.Millisecond,
		"how long each of the seven messages is held back, so that eyes can follow; 0 shows the true speed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *pace)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demoweb:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, pace time.Duration) error {
	fmt.Println("building the homeserver; the first build takes a few minutes …")
	return harness.Play(func(n *harness.Network) error {
		address, err := serve(ctx, n, pace)
		if err != nil {
			return err
		}
		fmt.Printf("open %s in a browser; Ctrl-C ends the demo\n", address)
		<-ctx.Done()
		return nil
	})
}

// serve starts the homeservers and the page. It returns the page's address. The page ends with the context.
func serve(ctx context.Context, n *harness.Network, pace time.Duration) (address string, err error) {
	s, err := newStage(ctx, n, pace)
	if err != nil {
		return "", err
	}
	handler, err := s.page()
	if err != nil {
		return "", err
	}
	return listen(ctx, handler)
}
