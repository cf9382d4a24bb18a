package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/fsck"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
)

var fsckCommand = command{
	name: "fsck",
	about: `fsck checks a server's database. It derives every group from its log, and every
migration from its signed messages. Stop the server first. fsck brings an older
schema up to date, and changes nothing else. It prints one line for each problem.
`,
	required: []string{"db"},
	prepare: func(flags *flag.FlagSet) action {
		connection := flags.String("db", "", "the `DATABASE` to check")
		key := flags.String("peers", "", "ask the other server of each migration for its status there,\n"+
			"with requests signed by the homeserver's private_key in `KEYFILE`")
		private := flags.Bool("allow-private-networks", false, "also ask servers at addresses that are not public,\n"+
			"as federation.allow_private_networks allows")
		return func(std stdio, _ string) error { return checkDatabase(*connection, *key, *private, std.out) }
	},
}

// checkDatabase prints the problems of a database, one on each line. It fails when there are any.
func checkDatabase(connection, key string, privateNetworks bool, out io.Writer) error {
	var ask fsck.Ask
	if key != "" {
		var err error
		if ask, err = asker(key, privateNetworks); err != nil {
			return err
		}
	}
	ctx := context.Background()
	store, err := openExisting(ctx, connection)
	if err != nil {
		return err
	}
	problems, err := check(ctx, store, ask, out)
	if err := errors.Join(err, store.Close()); err != nil {
		return err
	}
	if problems > 0 {
		return fmt.Errorf("%d problems", problems)
	}
	return nil
}

// check prints the problems of a database. With ask, it also prints the contradictions of other servers.
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
	fmt.Fprintf(out, "checked %d terms of groups, %d migrations, %d rows of the outbox\n",
		report.Groups, report.Migrations, report.Rows)
	return len(found) + len(loose), nil
}
