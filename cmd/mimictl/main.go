// Command mimictl is the tool of operators and implementers of MIMI Portability. It needs no server.
//
//	mimictl decode [-json] [-protocol NAME] [-type NAME] FILE|-
//	mimictl fsck [-allow-private-networks] -db DATABASE [-peers KEYFILE]
//	mimictl mls replay [-protocol NAME] FILE|-
//	mimictl mls verify [-json] [-protocol NAME] FILE|-
//	mimictl db copy -from DATABASE -to DATABASE
//
// It exits with 0 on success, with 1 when the input is not acceptable or cannot be read, and with 2 for wrong
// arguments or an ambiguous input.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// commands lists the commands in the order of -h.
var commands = []*command{&decodeCommand, &fsckCommand, &replayCommand, &verifyCommand, &copyCommand}

const usage = `Usage:
%s
mimictl COMMAND -h prints more help. A FILE of - is standard input. A DATABASE is
file:PATH or postgres://USER:PASSWORD@HOST/NAME, as in the homeserver's
configuration.

Exit status: 0 done; 1 the input is not acceptable or cannot be read; 2 wrong
arguments, or an ambiguous input.
`

// stdio has the input, the output and the time of a command.
type stdio struct {
	in  io.Reader
	out io.Writer
	now time.Time
}

func main() { os.Exit(run(os.Args[1:], stdio{os.Stdin, os.Stdout, time.Now()}, os.Stderr)) }

// run runs a command line, and returns the exit status.
func run(args []string, std stdio, stderr io.Writer) int {
	err := dispatch(args, std)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "mimictl: error: %v\n", err)
	var f *failure
	if !errors.As(err, &f) {
		return 1
	}
	for _, hint := range f.hints {
		fmt.Fprintf(stderr, "mimictl: hint: %s\n", hint)
	}
	return f.status
}

func dispatch(args []string, std stdio) error {
	for words := 1; words <= min(2, len(args)); words++ {
		for _, c := range commands {
			if c.name == strings.Join(args[:words], " ") {
				return c.run(args[words:], std)
			}
		}
	}
	switch {
	case len(args) == 0:
		return misused("mimictl", errors.New("no command"))
	case args[0] == "-h" || args[0] == "-help" || args[0] == "--help" || args[len(args)-1] == "-h":
		return help(std.out)
	}
	return misused("mimictl", fmt.Errorf("unknown command %q", strings.Join(args[:min(2, len(args))], " ")))
}

// help lists the commands.
func help(out io.Writer) error {
	var lines strings.Builder
	for _, c := range commands {
		flags, _ := c.newFlags()
		fmt.Fprintf(&lines, "    %s\n", c.synopsis(flags))
	}
	_, err := fmt.Fprintf(out, usage, lines.String())
	return err
}

// failure is an error with an exit status and with hints.
type failure struct {
	error
	status int
	hints  []string
}

func misused(command string, err error) error {
	return &failure{err, 2, []string{command + " -h prints the usage"}}
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
