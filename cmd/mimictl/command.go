package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v3"
)

// leaf completes a command that does something. It takes as many arguments as ArgsUsage has words. Each flag that has
// no default is as its Required says. The help ends with the example.
func leaf(c cli.Command, example string) *cli.Command {
	act := c.Action
	c.Action = func(ctx context.Context, cmd *cli.Command) error {
		if want := len(strings.Fields(c.ArgsUsage)); cmd.NArg() != want {
			return misuse(ctx, cmd, fmt.Errorf("%s takes %d arguments, not %d", cmd.FullName(), want, cmd.NArg()), true)
		}
		return act(ctx, cmd)
	}
	c.OnUsageError = misuse
	c.Description = strings.TrimSpace(c.Description) + "\n\nExample:\n\n" + indent(example)
	return &c
}

// group makes a command that has only subcommands.
func group(name, usage string, commands ...*cli.Command) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, Commands: commands, OnUsageError: misuse,
		Action: func(ctx context.Context, cmd *cli.Command) error {
			err := fmt.Errorf("%s needs a command", cmd.FullName())
			if cmd.NArg() > 0 {
				err = fmt.Errorf("unknown command %q", cmd.FullName()+" "+cmd.Args().First())
			}
			return misuse(ctx, cmd, err, true)
		},
	}
}

// misuse is the error of a command line that cannot be run.
func misuse(_ context.Context, cmd *cli.Command, err error, _ bool) error {
	return &failure{err, statusMisuse, []string{cmd.FullName() + " --help prints the usage"}}
}

func indent(lines string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(lines), "\n", "\n    ")
}

// databaseFlag names a database.
func databaseFlag(name, usage string) *cli.StringFlag {
	return &cli.StringFlag{Name: name, Usage: usage, Required: true}
}

// jsonFlag chooses JSON as the output.
func jsonFlag() *cli.BoolFlag {
	return &cli.BoolFlag{Name: "json", Usage: "print JSON, with whole values"}
}
