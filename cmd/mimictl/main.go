// Command mimictl is the tool of operators and implementers of MIMI Portability. mimictl --help lists its commands, and
// the help of each command has an example. Flags may have one hyphen or two.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v3"
)

// The exit statuses.
const (
	statusDone    = 0
	statusRefused = 1 // the input is not acceptable or cannot be read, a check has found problems, or a server refuses
	statusMisuse  = 2 // wrong arguments, or an ambiguous input
	statusGap     = 3 // a check has found no problem, and could not check everything
	statusAway    = 4 // a server does not answer
)

const about = `A FILE of - is standard input. A DATABASE is file:PATH or
postgres://USER:PASSWORD@HOST/NAME, as in the homeserver's configuration. Commands
open it for reading only, unless they say otherwise. A SERVER is the URL of your own
homeserver. The environment variable MIMICTL_TOKEN has the access token of one of
its administrators.

Exit status:

    0   done
    1   the input is not acceptable or cannot be read, a check has found problems,
        or a server refuses the request
    2   wrong arguments, or an ambiguous input
    3   a check has found no problem, and could not check everything
    4   a server does not answer

Shell completion, for bash: source <(mimictl completion bash). It is there for zsh,
fish and pwsh too.`

// stdio has the input, the output and the time of a command. Notes for people go to notes, so that scripts can read the
// output.
type stdio struct {
	in    io.Reader
	out   io.Writer
	notes io.Writer
	now   time.Time
}

func main() {
	os.Exit(run(os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr, time.Now()}))
}

// run runs a command line, and returns the exit status.
func run(args []string, std stdio) int {
	c := root(std)
	err := c.Run(context.Background(), append([]string{"mimictl"}, protectIDs(c, args)...))
	if err == nil {
		return statusDone
	}
	fmt.Fprintf(std.notes, "mimictl: error: %v\n", err)
	var f *failure
	if !errors.As(err, &f) {
		return statusRefused
	}
	for _, hint := range f.hints {
		fmt.Fprintf(std.notes, "mimictl: hint: %s\n", hint)
	}
	return f.status
}

// root has all commands.
func root(std stdio) *cli.Command {
	commands := append(adminCommands(std), fsckCommand(std),
		group("db", "work on a homeserver's database", copyCommand(std)),
		group("backup", "take backups, and check them", backupCreateCommand(std), backupVerifyCommand(std)),
		group("redirects", "answer for groups that have gone, in the place of a homeserver that has ended",
			redirectsExportCommand(std), redirectsServeCommand(std)),
		uninstallCommand(std),
		decodeCommand(std),
		group("mls", "follow and verify groups", replayCommand(std), verifyCommand(std)),
	)
	c := group("mimictl", "the tool of operators and implementers of MIMI Portability", commands...)
	c.Description = about
	c.Reader, c.Writer, c.ErrWriter = std.in, std.out, std.notes
	c.EnableShellCompletion, c.Suggest, c.HideHelpCommand = true, true, true
	c.ConfigureShellCompletionCommand = func(completion *cli.Command) { completion.Hidden = false }
	c.ExitErrHandler = func(context.Context, *cli.Command, error) {} // run decides about the status
	return c
}

// failure is an error with an exit status and with hints.
type failure struct {
	error
	status int
	hints  []string
}

// maxInput is the largest input in bytes. It has room for the largest group state of the default configuration in
// hexadecimal.
const maxInput = 256 << 20

// read reads a file, or standard input for "-".
func read(file string, std stdio) ([]byte, error) {
	if file == "-" {
		return readAll(std.in)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

func readAll(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err == nil && len(data) > maxInput {
		err = fmt.Errorf("the input is larger than %d MiB", maxInput>>20)
	}
	return data, err
}
