package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/fsck"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
)

// fsckCommand checks a server's database and prints what is wrong with it, a problem a line.
func fsckCommand(args []string, std stdio) error {
	flags := flag.NewFlagSet("fsck", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	connection, key := flags.String("db", "", ""), flags.String("peers", "", "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return misused("%w", err)
	case *connection == "" || flags.NArg() > 0:
		return misused("fsck takes -db, and -peers, and nothing else")
	}
	var ask fsck.Ask
	if *key != "" {
		var err error
		if ask, err = asker(*key); err != nil {
			return err
		}
	}
	ctx := context.Background()
	if path, isFile := strings.CutPrefix(*connection, "file:"); isFile {
		if _, err := os.Stat(path); err != nil {
			return err // or it would be created
		}
	}
	store, err := engine.Open(ctx, *connection, postgres.Pool{MaxOpen: 2, MaxIdle: 2})
	if err != nil {
		return err
	}
	problems, err := check(ctx, store, ask, std.out)
	if err := errors.Join(err, store.Close()); err != nil {
		return err
	}
	if problems > 0 {
		return fmt.Errorf("%d problems", problems)
	}
	return nil
}

// check prints what is wrong with a database; with ask, also where other servers contradict it.
func check(ctx context.Context, store *engine.Store, ask fsck.Ask, out io.Writer) (problems int, err error) {
	report, err := fsck.Check(ctx, store, engines)
	if err != nil {
		return 0, err
	}
	loose, err := store.Loose(ctx)
	if err != nil {
		return 0, err
	}
	found := report.Problems
	if ask != nil {
		contradictions, err := fsck.Peers(ctx, store, ask)
		if err != nil {
			return 0, err
		}
		found = append(found, contradictions...)
	}
	for _, p := range found {
		fmt.Fprintln(out, p)
	}
	for _, p := range loose {
		fmt.Fprintln(out, p)
	}
	fmt.Fprintf(out, "checked %d terms of groups, %d migrations, %d rows of the outbox\n", report.Groups, report.Migrations, report.Rows)
	return len(found) + len(loose), nil
}
