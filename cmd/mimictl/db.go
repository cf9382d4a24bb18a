package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
)

var copyCommand = command{
	name: "db copy",
	about: `db copy copies the whole database of a homeserver to an empty database of the
same or the other engine, and compares the two. Stop the homeserver first. Start
it again with the new database.
`,
	required: []string{"from", "to"},
	prepare: func(flags *flag.FlagSet) action {
		from := flags.String("from", "", "the `DATABASE` to copy")
		to := flags.String("to", "", "the empty `DATABASE`; a file is created")
		return func(std stdio, _ string) error { return copyDatabase(*from, *to, std.out) }
	},
}

func copyDatabase(from, to string, out io.Writer) (err error) {
	ctx := context.Background()
	source, err := openExisting(ctx, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	destination, err := openDatabase(ctx, to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, destination.Close()) }()
	copied, err := engine.Copy(ctx, source, destination)
	for _, c := range copied {
		fmt.Fprintf(out, "%-20s %8d rows  %x\n", c.Table, c.Rows, c.Sum)
	}
	return err
}

// openDatabase opens a DATABASE, and creates a file that does not exist.
func openDatabase(ctx context.Context, connection string) (*engine.Store, error) {
	return engine.Open(ctx, connection, postgres.Pool{MaxOpen: 2, MaxIdle: 2})
}

// openExisting opens a DATABASE. It fails for a file that does not exist.
func openExisting(ctx context.Context, connection string) (*engine.Store, error) {
	if path, isFile := strings.CutPrefix(connection, "file:"); isFile {
		if _, err := os.Stat(path); err != nil {
			return nil, err
		}
	}
	return openDatabase(ctx, connection)
}
