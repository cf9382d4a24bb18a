package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
)

// command is a verb of one or two words.
type command struct {
	name     string
	about    string   // the paragraphs that -h shows
	file     bool     // whether it takes one file
	required []string // the flags that must be given
	// prepare adds the command's flags, and returns what is done once they are parsed.
	prepare func(*flag.FlagSet) action
}

// action is what a command does, with the name of its file if it takes one.
type action func(std stdio, file string) error

// run parses the arguments of a command and carries it out.
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

// requireArguments fails unless the required flags are there, and one file where the command takes one.
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

// help prints how a command is called.
func (c *command) help(flags *flag.FlagSet, out io.Writer) error {
	_, err := fmt.Fprintf(out, "Usage:\n    %s\n\n%s\n", c.synopsis(flags), c.about)
	flags.SetOutput(out)
	flags.PrintDefaults()
	return err
}

// synopsis is a command's line, made from its flags.
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
