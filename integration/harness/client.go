package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// Client is a client in its own process: the TypeScript reference client, or a program that takes the same commands.
// Clients reach each other through the homeservers only. The process reads commands, and writes answers and decrypted
// messages. Each of them is one line of JSON.
type Client struct {
	User *User
	Name string // the user's localpart

	cmd    *exec.Cmd
	in     io.WriteCloser
	stderr tail

	mu      sync.Mutex
	nextID  int
	pending map[int]chan answer
	err     error // set when the process has ended
}

type answer struct {
	ID     int             `json:"id"`
	OK     bool            `json:"ok"`
	Result json.RawMessage `json:"result"`
	Error  string          `json:"error"`
	Status int             `json:"status"`
	Body   map[string]any  `json:"body"`
}

// Args are the arguments of a command.
type Args map[string]any

// GroupState is a client's view of its group.
type GroupState struct {
	Group                   string   `json:"group"` // the id in base64url
	Room                    string   `json:"room"`
	DS                      string   `json:"ds"`
	Term                    uint64   `json:"term"`
	Epoch                   uint64   `json:"epoch"`
	EpochAuthenticator      string   `json:"epoch_authenticator"` // empty if the client's library does not export it
	TreeHash                string   `json:"tree_hash"`
	ConfirmedTranscriptHash string   `json:"confirmed_transcript_hash"`
	Members                 []Member `json:"members"`
}

// Member is a leaf of a group.
type Member struct {
	User string `json:"user"`
}

// StartClient starts the TypeScript reference client for a user and logs it in with the user's token. The client keeps
// its state in the file store, and in memory if store is empty.
func StartClient(ctx context.Context, u *User, store string) (*Client, error) {
	root, err := ModuleRoot()
	if err != nil {
		return nil, err
	}
	driver := filepath.Join(root, "clients", "ts", "dist", "src", "driver.js")
	return StartProgram(ctx, u, exec.Command("node", driver), store)
}

// StartProgram is StartClient for another program that takes the same commands.
func StartProgram(ctx context.Context, u *User, program *exec.Cmd, store string) (c *Client, err error) {
	name, _, _ := strings.Cut(strings.TrimPrefix(u.ID, "@"), ":")
	c = &Client{User: u, Name: name, cmd: program, pending: map[int]chan answer{}}
	c.cmd.Env = append(c.cmd.Environ(), u.Server.trusted()...)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.cmd.Stderr = &c.stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the client (is it installed?): %w", err)
	}
	go c.read(out)
	args := Args{"homeserver": u.Server.URL, "token": u.Token}
	if store != "" {
		args["store"] = store
	}
	return c, c.Do(ctx, "login", args, nil)
}

// ModuleRoot returns the directory of go.mod.
var ModuleRoot = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	return filepath.Dir(strings.TrimSpace(string(out))), err
})

// read gives each answer to the call of Do that waits for it. It ignores the lines without an id: the client keeps the
// same messages for its command wait_for.
func (c *Client) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var a answer
		if json.Unmarshal(lines.Bytes(), &a) != nil || a.ID == 0 {
			continue
		}
		c.mu.Lock()
		ch := c.pending[a.ID]
		delete(c.pending, a.ID)
		c.mu.Unlock()
		if ch != nil {
			ch <- a
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = fmt.Errorf("the client of %s has ended: %s", c.Name, c.stderr.String())
	for _, ch := range c.pending {
		close(ch)
	}
}

// Do gives the client a command and decodes the result into out, unless out is nil. The error is an *Error when a
// homeserver refused a request.
func (c *Client) Do(ctx context.Context, cmd string, args Args, out any) error {
	ch, err := c.send(cmd, args)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return fmt.Errorf("%s: %s: %w", c.Name, cmd, ctx.Err())
	case a, ok := <-ch:
		switch {
		case !ok:
			return c.err
		case !a.OK && a.Body != nil:
			code, _ := a.Body["errcode"].(string)
			return &Error{Status: a.Status, Code: code, Fields: a.Body}
		case !a.OK:
			return fmt.Errorf("%s: %s: %s", c.Name, cmd, a.Error)
		case out == nil:
			return nil
		}
		return json.Unmarshal(a.Result, out)
	}
}

func (c *Client) send(cmd string, args Args) (<-chan answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	c.nextID++
	line := Args{"id": c.nextID, "cmd": cmd}
	for k, v := range args {
		line[k] = v
	}
	data, err := json.Marshal(line)
	if err != nil {
		return nil, err
	}
	ch := make(chan answer, 1)
	c.pending[c.nextID] = ch
	_, err = c.in.Write(append(data, '\n'))
	return ch, err
}

// State returns the client's view of its group.
func (c *Client) State(ctx context.Context) (st GroupState, err error) {
	err = c.Do(ctx, "state", nil, &st)
	return st, err
}

// Kill ends the process at once.
func (c *Client) Kill() error {
	err := c.cmd.Process.Kill()
	_ = c.cmd.Wait() // the process was killed
	return err
}

// Close closes the client's standard input and waits until the process has ended.
func (c *Client) Close() error {
	return errors.Join(c.in.Close(), c.cmd.Wait())
}

// tail keeps the last 4 KiB that were written.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const most = 4 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > most {
		t.b = t.b[len(t.b)-most:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
