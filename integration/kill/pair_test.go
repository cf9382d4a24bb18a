package kill

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// section is the default with a short time to decide, and without the quotas that so many attempts would use up.
const section = harness.Section + `
  decide_by: 3s
  policy: {quotas: {moves_per_hour: 0, aborts_an_hour: 0, offers: 0}}
`

// pair is a group of two members on two homeservers, who may both move it.
type pair struct {
	servers [2]*harness.Server
	stores  [2]string // the connection strings of the module's databases
	members [2]*harness.Client
	said    int
	owed    [2][]string       // by member: what the other has to receive, for its sending was acknowledged
	epochs  map[uint64]string // the transcript of each epoch that a Commit was acknowledged to lead to
}

// newPair makes a pair on servers with a PostgreSQL database each, or with SQLite files where there is no function that makes one.
func newPair(t *testing.T, postgres func() string, sections [2]string) *pair {
	t.Helper()
	p := &pair{epochs: map[uint64]string{}}
	network := harness.NewTestNetwork(t)
	network.Postgres = postgres
	var users [2]*harness.User
	for i, name := range []string{"alice", "bob"} {
		p.servers[i] = network.StartServer(t, sections[i])
		p.stores[i] = cmp.Or(p.servers[i].Postgres, p.servers[i].Database("mimi_portability"))
		users[i] = harness.RegisterUser(t, p.servers[i], name, false)
	}
	ctx := harness.Within(t)
	room, err := users[0].CreateRoom(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(users[0].Invite(ctx, room, users[1].ID), users[1].Join(ctx, room, p.servers[0].Name),
		users[0].SetPowerLevel(ctx, room, users[1].ID, 100))
	if err != nil {
		t.Fatal(err)
	}
	for i, u := range users {
		if p.members[i], err = harness.StartClient(t.Context(), u, t.TempDir()+"/client.json"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.members[i].Kill() }) // it may have ended
	}
	p.do(t, 1, "publish_key_packages", nil)
	p.do(t, 0, "create_group", harness.Args{"room": room})
	p.do(t, 0, "add", harness.Args{"user": users[1].ID})
	p.do(t, 1, "join", nil)
	return p
}

func (p *pair) do(t *testing.T, member int, command string, args harness.Args) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*harness.Patience)
	defer cancel()
	if err := p.members[member].Do(ctx, command, args, nil); err != nil {
		t.Fatalf("%s: %s %v: %v", p.members[member].Name, command, args, err)
	}
}

// poll tries until it succeeds or patience ends.
func poll(t *testing.T, what string, try func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*harness.Patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// hosted is what a Delivery Service says of a group.
type hosted struct {
	Term     uint64 `json:"term"`
	Epoch    uint64 `json:"epoch"`
	TreeHash string `json:"tree_hash"`
}

// settle waits until both members are in one epoch with the same secrets, at one Delivery Service that has the same tree, and
// returns which server that is.
func (p *pair) settle(t *testing.T) (host int) {
	t.Helper()
	poll(t, "settle", func(ctx context.Context) error {
		var states [2]harness.GroupState
		for i, c := range p.members {
			if err := c.Do(ctx, "sync", nil, &states[i]); err != nil {
				return err
			}
		}
		var ds hosted
		if err := p.members[0].Do(ctx, "ds_info", nil, &ds); err != nil {
			return err
		}
		tree, err := base64.RawStdEncoding.DecodeString(ds.TreeHash)
		if err != nil {
			return err
		}
		a, b := states[0], states[1]
		if a.EpochAuthenticator != b.EpochAuthenticator || a.DS != b.DS || a.Term != b.Term || a.Term != ds.Term ||
			a.Epoch != ds.Epoch || a.TreeHash != hex.EncodeToString(tree) {
			return fmt.Errorf("they differ:\n%+v\n%+v\n%+v", a, b, ds)
		}
		for epoch := range p.epochs {
			if epoch > a.Epoch {
				return fmt.Errorf("a Commit that led to epoch %d is lost: this is epoch %d", epoch, a.Epoch)
			}
		}
		host = 0
		if a.DS == p.servers[1].Name {
			host = 1
		}
		return nil
	})
	return host
}

// traffic lets both members send and commit until it is stopped. A server may be away meanwhile: what was not acknowledged is
// not owed to anybody.
func (p *pair) traffic(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var both sync.WaitGroup
	var mu sync.Mutex
	for i := range p.members {
		both.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				p.act(ctx, t, &mu, i, n)
				breathe(ctx)
			}
		})
	}
	return func() {
		cancel()
		both.Wait()
	}
}

// act sends a message, or each third time a Commit.
func (p *pair) act(ctx context.Context, t *testing.T, mu *sync.Mutex, i, n int) {
	c := p.members[i]
	if n%3 == 0 {
		var st harness.GroupState
		if c.Do(ctx, "update", nil, &st) != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if other, ok := p.epochs[st.Epoch]; ok && other != st.ConfirmedTranscriptHash {
			t.Errorf("there are two epochs %d", st.Epoch)
		}
		p.epochs[st.Epoch] = st.ConfirmedTranscriptHash
		return
	}
	mu.Lock()
	p.said++
	text := fmt.Sprintf("message %d", p.said)
	mu.Unlock()
	if c.Do(ctx, "send", harness.Args{"text": text}, nil) == nil {
		mu.Lock()
		defer mu.Unlock()
		p.owed[1-i] = append(p.owed[1-i], text)
	}
}

// breathe keeps the members from taking every processor for themselves.
func breathe(ctx context.Context) { wait(ctx, 50*time.Millisecond) }

// collect checks that each member has received what was acknowledged to the other.
func (p *pair) collect(t *testing.T) (messages int) {
	t.Helper()
	for i, texts := range p.owed {
		for _, text := range texts {
			p.do(t, i, "wait_for", harness.Args{"kind": "message", "text": text})
		}
		messages += len(texts)
		p.owed[i] = nil
	}
	return messages
}

// migrate lets the members move the group, first to a target, then back, and so on until enough says that the last move need not
// be followed by another one.
func (p *pair) migrate(t *testing.T, target int, enough <-chan struct{}) (end func(t *testing.T) string) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*harness.Patience)
	t.Cleanup(cancel)
	outcome := make(chan string, 1)
	go func() { outcome <- p.shuttle(ctx, target, enough) }()
	return func(t *testing.T) string {
		t.Helper()
		got := <-outcome
		if ctx.Err() != nil {
			t.Fatalf("the migration does not end: %s", got)
		}
		return got
	}
}

func (p *pair) shuttle(ctx context.Context, target int, enough <-chan struct{}) string {
	for {
		state, err := p.move(ctx, target)
		over := false
		select {
		case <-enough:
			over = true
		default:
		}
		switch {
		case over && err == nil:
			return state
		case ctx.Err() != nil:
			return ctx.Err().Error()
		case state == "moved":
			target = 1 - target
		}
		breathe(ctx)
	}
}

// move lets the member at the target move the group there, and returns how that ended.
func (p *pair) move(ctx context.Context, target int) (state string, err error) {
	var out struct {
		State string `json:"state"`
	}
	err = p.members[target].Do(ctx, "migrate", harness.Args{"target": p.servers[target].Name}, &out)
	if err == nil {
		return out.State, nil
	}
	var st harness.GroupState
	if p.members[target].Do(ctx, "state", nil, &st) == nil && st.DS == p.servers[target].Name {
		return "moved", nil // and what failed came after that
	}
	return "", err
}
