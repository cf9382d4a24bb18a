// Package draft09 is a Matrix client for groups of github.com/cisco/go-mls. It is a process that takes the commands of
// the TypeScript client, so that it can play the same scenarios. It is in one group, keeps its state in memory, and
// does not retry.
package draft09

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// clientEnv is the environment variable that makes ServeClient serve.
const clientEnv = "MIMI_DRAFT09_CLIENT"

// StartClient runs the executable of the current process again, as a user's client. Its main must call ServeClient
// first.
func StartClient(ctx context.Context, u *harness.User) (*harness.Client, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), clientEnv+"=1")
	return harness.StartProgram(ctx, u, cmd, "")
}

// ServeClient runs the client in a process that StartClient has started, and then exits. In any other process it does
// nothing.
func ServeClient() {
	if os.Getenv(clientEnv) == "" {
		return
	}
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// command is a line of input: the name of a command, and the arguments of all commands.
type command struct {
	ID         int    `json:"id"`
	Name       string `json:"cmd"`
	Homeserver string `json:"homeserver"`
	Token      string `json:"token"`
	Room       string `json:"room"`
	User       string `json:"user"`
	Text       string `json:"text"`
	Target     string `json:"target"`
	DS         string `json:"ds"`
	Kind       string `json:"kind"`
	Epoch      uint64 `json:"epoch"`
	Term       uint64 `json:"term"`
}

// answer is a line of output.
type answer struct {
	ID     int            `json:"id"`
	OK     bool           `json:"ok"`
	Result any            `json:"result,omitempty"`
	Error  string         `json:"error,omitempty"`
	Status int            `json:"status,omitempty"` // from a homeserver's refusal
	Body   map[string]any `json:"body,omitempty"`
}

var commands = map[string]func(*client, context.Context, *command) (any, error){
	"login":                (*client).login,
	"publish_key_packages": (*client).publishKeyPackage,
	"create_group":         (*client).create,
	"join":                 (*client).join,
	"add":                  (*client).add,
	"remove":               (*client).remove,
	"propose_update":       (*client).proposeUpdate,
	"update":               (*client).update,
	"send":                 (*client).send,
	"migrate":              (*client).migrate,
	"state":                func(c *client, _ context.Context, _ *command) (any, error) { return c.state() },
	"wait_for":             (*client).waitFor,
	"ds_info":              (*client).dsInfo,
	"host":                 (*client).host,
}

// serve runs one command after the other.
func serve(in io.Reader, out io.Writer) error {
	c := new(client)
	lines, answers := bufio.NewScanner(in), json.NewEncoder(out)
	for lines.Scan() {
		cmd := new(command)
		if err := json.Unmarshal(lines.Bytes(), cmd); err != nil {
			return err
		}
		if err := answers.Encode(c.do(cmd)); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (c *client) do(cmd *command) *answer {
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	run, ok := commands[cmd.Name]
	if !ok {
		return &answer{ID: cmd.ID, Error: fmt.Sprintf("no command %q", cmd.Name)}
	}
	result, err := run(c, ctx, cmd)
	if err == nil {
		return &answer{ID: cmd.ID, OK: true, Result: result}
	}
	a := &answer{ID: cmd.ID, Error: err.Error()}
	var refused *harness.Error
	if errors.As(err, &refused) {
		a.Status, a.Body = refused.Status, refused.Fields
	}
	return a
}
