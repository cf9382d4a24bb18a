package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
)

// command is a command with a name of one or two words.
type command struct {
	name     string
	about    string   // the text of -h
	file     bool     // it takes one file
	required []string // its mandatory flags
	// prepare adds the command's flags, and returns the action to run after they are parsed.
	prepare func(*flag.FlagSet) action
}

// action runs a command. file is the name of its file, empty if it takes none.
type action func(std stdio, file string) error

// run parses the arguments of a command and runs it.
func (c *command) run(args []string, std stdio) error {
	flags, act := c.newFlags()
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return c.help(flags, std.out)
	}
	if err == nil {
		err = c.requireArguments(flags)
	}
	if err != nil {
		return misused("mimictl "+c.name, err)
	}
	return act(std, flags.Arg(0))
}

func (c *command) newFlags() (*flag.FlagSet, action) {
	flags := flag.NewFlagSet(c.name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	return flags, c.prepare(flags)
}

// requireArguments fails unless the mandatory flags are set, and unless there is one file if the command takes one.
func (c *command) requireArguments(flags *flag.FlagSet) error {
	for _, name := range c.required {
		if flags.Lookup(name).Value.String() == "" {
			return fmt.Errorf("%s needs -%s", c.name, name)
		}
	}
	switch {
	case c.file && flags.NArg() != 1:
		return fmt.Errorf("%s takes one file, not %d", c.name, flags.NArg())
	case !c.file && flags.NArg() > 0:
		return fmt.Errorf("%s takes no %q", c.name, flags.Arg(0))
	}
	return nil
}

// help prints the usage of a command.
func (c *command) help(flags *flag.FlagSet, out io.Writer) error {
	_, err := fmt.Fprintf(out, "Usage:\n    %s\n\n%s\n", c.synopsis(flags), c.about)
	flags.SetOutput(out)
	flags.PrintDefaults()
	return err
}

// synopsis makes the usage line of a command from its flags.
func (c *command) synopsis(flags *flag.FlagSet) string {
	words := []string{"mimictl", c.name}
	flags.VisitAll(func(f *flag.Flag) {
		argument, _ := flag.UnquoteUsage(f)
		word := strings.TrimSpace("-" + f.Name + " " + argument)
		if !slices.Contains(c.required, f.Name) {
			word = "[" + word + "]"
		}
		words = append(words, word)
	})
	if c.file {
		words = append(words, "FILE|-")
	}
	return strings.Join(words, " ")
}
