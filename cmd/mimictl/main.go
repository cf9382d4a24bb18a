// Command mimictl is the tool of operators and implementers of MIMI Portability. It needs no server.
//
//	mimictl decode [-json] [-type NAME] [-protocol NAME] FILE|-
//	mimictl fsck -db DATABASE [-peers KEYFILE]
//	mimictl mls replay [-protocol NAME] FILE|-
//	mimictl mls verify [-json] [-protocol NAME] FILE|-
//	mimictl db copy -from DATABASE -to DATABASE
//
// It exits with 0 when it did what it was asked, with 1 when the input is not acceptable or cannot be read, and with 2 when
// it was called wrongly or the input can be more than one thing.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const usage = `Usage:
    mimictl decode [-json] [-type NAME] [-protocol NAME] FILE|-
    mimictl fsck -db DATABASE [-peers KEYFILE]
    mimictl mls replay [-protocol NAME] FILE|-
    mimictl mls verify [-json] [-protocol NAME] FILE|-
    mimictl db copy -from DATABASE -to DATABASE

decode prints a message of MIMI Portability or of MLS. The input is binary,
hexadecimal or base64 of any kind.

    -json        Print JSON. Bytes are hexadecimal, nothing is cut short.
    -type NAME   Decode as this structure. Without it, all are tried:
                 %s

fsck checks a server's database, given as in the server's configuration, by
deriving every group from its log and every migration from what was signed. The
server must not run meanwhile. It brings an older schema up to date, and changes
nothing else. It prints a line for each problem.

    -peers KEYFILE   Ask the other server of each migration how it stands there,
                     with requests signed by the homeserver's private_key.

mls replay follows a group through its messages, as a Delivery Service sees
them. The input is JSON, bytes in base64 or hexadecimal:

    {"group_info": MLSMESSAGE, "ratchet_tree": TREE, "messages": [MLSMESSAGE, ...]}

ratchet_tree may be absent when group_info carries the tree. It prints one line
of JSON for each message; one that is refused leaves the group as it was.

mls verify checks all that a Delivery Service can check of a group, and reports
its members and whose key packages have expired. The input is as for replay, or
a GroupInfo that carries its tree.

db copy copies all that a homeserver has stored to an empty database and compares
the two. A DATABASE is file:PATH or postgres://USER:PASSWORD@HOST/NAME. Stop the
homeserver first, and let it start again on the new database.

-protocol names the kind of group: mls10, which is the default, for RFC 9420, or
mls-draft09 for github.com/cisco/go-mls. Of messages of the latter, decode prints
the framing.

A FILE of - is standard input.

Exit status: 0 done; 1 the input is not acceptable or cannot be read; 2 called
wrongly, or the input can be more than one thing.
`

// stdio is what a command has of the world, besides files.
type stdio struct {
	in  io.Reader
	out io.Writer
	now time.Time
}

// commands are the verbs, each of one or two words.
var commands = map[string]func(args []string, std stdio) error{
	"decode":     decodeCommand,
	"fsck":       fsckCommand,
	"mls replay": replayCommand,
	"mls verify": verifyCommand,
	"db copy":    copyCommand,
}

func main() { os.Exit(run(os.Args[1:], stdio{os.Stdin, os.Stdout, time.Now()}, os.Stderr)) }

func run(args []string, std stdio, stderr io.Writer) int {
	err := dispatch(args, std)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(std.out, usage, strings.Join(typeNames(), " "))
		return 0
	}
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
		if command, ok := commands[strings.Join(args[:words], " ")]; ok {
			return command(args[words:], std)
		}
	}
	switch {
	case len(args) == 0:
		return misused("no command")
	case args[0] == "-h" || args[0] == "-help" || args[0] == "--help" || args[len(args)-1] == "-h":
		return flag.ErrHelp
	}
	return misused("unknown command %q", strings.Join(args[:min(2, len(args))], " "))
}

// failure is an error with an exit status and with advice.
type failure struct {
	error
	status int
	hints  []string
}

func misused(format string, args ...any) error {
	return &failure{fmt.Errorf(format, args...), 2, []string{"mimictl -h tells how it is called"}}
}

// parseFlags parses the arguments of a command that takes one file, and returns its name.
func parseFlags(flags *flag.FlagSet, args []string) (file string, err error) {
	flags.SetOutput(io.Discard)
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return "", err
	case err != nil:
		return "", misused("%w", err)
	case flags.NArg() != 1:
		return "", misused("%s takes one file, not %d", flags.Name(), flags.NArg())
	}
	return flags.Arg(0), nil
}

// maxInput is the largest input in bytes: the largest group state there is by default, in hexadecimal, with room to spare.
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
