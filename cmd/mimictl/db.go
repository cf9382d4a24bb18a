package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
)

func copyCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "copy", Usage: "copy a database into an empty one of the same or the other engine",
		Description: `It writes to the database of -to alone, in one transaction, and compares the two. Stop
the homeserver first, and start it again with the new database. If the copy stops in
the middle, the destination is empty as before: run the command again.`,
		Flags: []cli.Flag{
			databaseFlag("from", "the `DATABASE` to copy"),
			databaseFlag("to", "the empty `DATABASE`; a file is created"),
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			return copyDatabase(ctx, cmd.String("from"), cmd.String("to"), std)
		},
	}, "mimictl db copy -from file:mimi_portability.db -to 'postgres://dendrite@localhost/mimi'")
}

func copyDatabase(ctx context.Context, from, to string, std stdio) (err error) {
	source, err := engine.OpenSnapshot(ctx, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	if source.Beside() != "" {
		return &failure{
			fmt.Errorf("%s: what it accepts from now on would be missing in the copy", source.Beside()), statusRefused,
			[]string{"stop the homeserver, or copy a running server's database by mimictl backup create"},
		}
	}
	if err := engine.RequireEmpty(ctx, to); err != nil {
		return err
	}
	destination, err := engine.Open(ctx, to, postgres.Pool{MaxOpen: 2, MaxIdle: 2})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, destination.Close()) }()
	copied, err := engine.Copy(ctx, source, destination)
	for _, c := range copied {
		fmt.Fprintf(std.out, "%-22s %8d rows  %x\n", c.Table, c.Rows, c.Sum)
	}
	return err
}
