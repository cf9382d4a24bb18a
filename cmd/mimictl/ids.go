package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// protectIDs moves ids that begin with a hyphen to the end, behind "--": there they are no flags. One id in 64 begins
// so. An id that is the value of a flag stays. Arguments that have a "--" already stay as they are.
func protectIDs(c *cli.Command, args []string) []string {
	var others, ids []string
	isValue := false
	for _, arg := range args {
		if arg == "--" {
			return args
		}
		if !isValue && isDashedID(arg) {
			ids = append(ids, arg)
			continue
		}
		others = append(others, arg)
		if sub := c.Command(arg); sub != nil {
			c = sub
		}
		isValue = !isValue && takesValue(c, arg)
	}
	if ids == nil {
		return args
	}
	return slices.Concat(others, []string{"--"}, ids)
}

// isDashedID reports whether an argument is an id that begins with a hyphen. The ids of groups and of migrations have
// the same size, and no flag has so long a name.
func isDashedID(arg string) bool {
	id, err := mimiport.ParseBase64URL(arg)
	return err == nil && len(id) == len(mimiport.MigrationID{}) && arg[0] == '-'
}

// takesValue reports whether an argument is a flag of a command, and the next argument is its value.
func takesValue(c *cli.Command, arg string) bool {
	name, isFlag := strings.CutPrefix(arg, "-")
	return isFlag && slices.ContainsFunc(c.Flags, func(f cli.Flag) bool {
		_, isSwitch := f.(*cli.BoolFlag)
		return !isSwitch && slices.Contains(f.Names(), strings.TrimPrefix(name, "-"))
	})
}
