package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v3"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/fsck"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
)

func fsckCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "fsck", Usage: "check a server's database",
		Description: `It derives every group from its log, and every migration from its signed messages. It
reads the database as it is at one moment, and changes nothing. It prints one line
for each problem. A server may run meanwhile: fsck says so. With -peers it also
prints a line for each migration whose other server cannot be asked. That is a gap,
not a problem: with gaps alone, the exit status is 3.`,
		Flags: append([]cli.Flag{
			databaseFlag("db", "the `DATABASE` to check"),
			&cli.StringFlag{Name: "peers", Usage: "ask the other server of each migration for its status there, with " +
				"requests signed by the homeserver's private_key in `KEYFILE`"},
		}, peerFlags("with -peers: ")...),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			var ask fsck.Ask
			if key := cmd.String("peers"); key != "" {
				var err error
				if ask, err = asker(key, cmd.String("ca"), cmd.Bool("allow-private-networks")); err != nil {
					return err
				}
			}
			return checkDatabase(ctx, cmd.String("db"), ask, std)
		},
	}, "mimictl fsck -db file:mimi_portability.db -peers matrix_key.pem")
}

// checkDatabase prints the problems of a database and the gaps of the check, one on each line. It fails when there are
// any.
func checkDatabase(ctx context.Context, connection string, ask fsck.Ask, std stdio) error {
	store, err := engine.OpenSnapshot(ctx, connection)
	if err != nil {
		return err
	}
	if store.Beside() != "" {
		fmt.Fprintf(std.notes, "mimictl: note: %s: fsck checks what it holds at this moment\n", store.Beside())
	}
	problems, gaps, err := check(ctx, store, ask, std.out)
	if err := errors.Join(err, store.Close()); err != nil {
		return err
	}
	switch {
	case problems > 0:
		return errors.New(count(problems, "problem"))
	case gaps > 0:
		return &failure{errors.New("no problem, and " + count(gaps, "gap")), statusGap, nil}
	}
	return nil
}

// count writes a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// check prints the problems of a database. With ask, it also prints the contradictions of other servers, and the
// migrations about which no other server can be asked.
func check(ctx context.Context, store *engine.Store, ask fsck.Ask, out io.Writer) (problems, gaps int, err error) {
	report, err := fsck.Check(ctx, store, engines)
	if err != nil {
		return 0, 0, err
	}
	for _, p := range report.Problems {
		fmt.Fprintln(out, p)
	}
	if missing, err := store.Missing(ctx); err != nil || len(missing) > 0 {
		return len(report.Problems), 0, err
	}
	loose, err := store.Loose(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, p := range loose {
		fmt.Fprintln(out, p)
	}
	problems = len(report.Problems) + len(loose)
	if ask != nil {
		contradictions, unknown, err := fsck.Peers(ctx, store, ask)
		if err != nil {
			return 0, 0, err
		}
		for _, p := range contradictions {
			fmt.Fprintln(out, p)
		}
		for _, g := range unknown {
			fmt.Fprintln(out, g)
		}
		problems, gaps = problems+len(contradictions), len(unknown)
	}
	fmt.Fprintf(out, "checked %d terms of groups, %d migrations, %d rows of the outbox\n",
		report.Groups, report.Migrations, report.Rows)
	return problems, gaps, nil
}
