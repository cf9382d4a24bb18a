package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
)

// copyCommand copies the module's data from one database to an empty one, of the same or the other engine.
func copyCommand(args []string, std stdio) (err error) {
	flags := flag.NewFlagSet("db copy", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	from, to := flags.String("from", "", ""), flags.String("to", "", "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return misused("%w", err)
	case *from == "" || *to == "" || flags.NArg() > 0:
		return misused("db copy takes -from and -to, and nothing else")
	}
	ctx := context.Background()
	pool := postgres.Pool{MaxOpen: 2, MaxIdle: 2}
	source, err := engine.Open(ctx, *from, pool)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	destination, err := engine.Open(ctx, *to, pool)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, destination.Close()) }()
	copied, err := engine.Copy(ctx, source, destination)
	for _, c := range copied {
		fmt.Fprintf(std.out, "%-20s %8d rows  %x\n", c.Table, c.Rows, c.Sum)
	}
	return err
}
