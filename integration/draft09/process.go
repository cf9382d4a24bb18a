// Package draft09 is a Matrix client for groups of github.com/cisco/go-mls: a process that takes the commands of the
// TypeScript client, and so can play the same stories. It keeps to what a story needs: one group, nothing that outlives
// the process, no second attempt.
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

// clientEnv names the environment variable that makes a process a client.
const clientEnv = "MIMI_DRAFT09_CLIENT"

// StartClient starts this very program once more, as the client of a user. Its main must begin with ServeClient.
func StartClient(ctx context.Context, u *harness.User) (*harness.Client, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), clientEnv+"=1")
	return harness.StartProgram(ctx, u, cmd, "")
}

// ServeClient is the main of a process that StartClient has started, which ends in it. In any other process it does
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

// command is a line of input: what to do, and all arguments that any command has.
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
	Status int            `json:"status,omitempty"` // of a homeserver's refusal
	Body   map[string]any `json:"body,omitempty"`
}

var commands = map[string]func(*client, context.Context, *command) (any, error){
	"login":                (*client).login,
	"identity":             (*client).identity,
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

// serve does one command after the other.
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
