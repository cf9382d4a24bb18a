package kill

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// section is the default with a short time to decide, without the quotas that so many attempts would use up, and for a group that
// users of any server in its room may move.
const section = harness.Section + `
  decide_by: 3s
  policy: {target: joined_servers, quotas: {moves_per_hour: 0, aborts_an_hour: 0, offers: 0}}
`

// party is a group with one member on each of some homeservers. The group moves between the first two of them.
type party struct {
	links   *harness.Links // between the servers; nil where they reach each other directly
	servers []*harness.Server
	stores  []string // the connection strings of the module's databases
	members []*harness.Client
	movers  [2]int // by target: the member who moves the group there

	mu     sync.Mutex // guards what follows
	said   int
	owed   [][]string        // by member: what they have to receive, for its sending was acknowledged
	epochs map[uint64]string // the transcript of each epoch that a Commit was acknowledged to lead to
}

// newParty makes a party on servers with a section each. The first server has the group.
func newParty(t *testing.T, network *harness.TestNetwork, sections ...string) *party {
	t.Helper()
	p := &party{links: network.Links, movers: [2]int{0, 1}, owed: make([][]string, len(sections)), epochs: map[uint64]string{}}
	var users []*harness.User
	for i, section := range sections {
		s := network.StartServer(t, section)
		p.servers = append(p.servers, s)
		p.stores = append(p.stores, cmp.Or(s.Postgres, s.Database("mimi_portability")))
		users = append(users, harness.RegisterUser(t, s, []string{"alice", "bob", "carol"}[i], false))
	}
	ctx := harness.Within(t)
	room, err := users[0].CreateRoom(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range users[1:] {
		err := errors.Join(users[0].Invite(ctx, room, u.ID), u.Join(ctx, room, p.servers[0].Name), users[0].SetPowerLevel(ctx, room, u.ID, 100))
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, u := range users {
		c, err := harness.StartClient(t.Context(), u, t.TempDir()+"/client.json")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Kill() }) // it may have ended
		p.members = append(p.members, c)
	}
	p.do(t, 0, "create_group", harness.Args{"room": room})
	for i, u := range users[1:] {
		p.do(t, i+1, "publish_key_packages", nil)
		p.do(t, 0, "add", harness.Args{"user": u.ID})
		p.do(t, i+1, "join", nil)
	}
	return p
}

// newTrio makes a party on three servers with links between them: alice and bob have one that the group moves to and from each, carol
// has a third one and moves it.
func newTrio(t *testing.T) *party {
	t.Helper()
	network := harness.NewTestNetwork(t)
	network.Links = harness.NewLinks()
	p := newParty(t, network, section, section, section)
	p.movers = [2]int{2, 2}
	return p
}

func (p *party) do(t *testing.T, member int, command string, args harness.Args) {
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

// settle waits until all members are in one epoch with the same secrets, at one Delivery Service that has the same tree, and
// returns which server that is.
func (p *party) settle(t *testing.T) (host int) {
	t.Helper()
	poll(t, "settle", func(ctx context.Context) error {
		states := make([]harness.GroupState, len(p.members))
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
		a := states[0]
		for _, b := range states {
			if a.EpochAuthenticator != b.EpochAuthenticator || a.DS != b.DS || a.Term != b.Term {
				return fmt.Errorf("the members differ:\n%+v\n%+v", a, b)
			}
		}
		if a.Term != ds.Term || a.Epoch != ds.Epoch || a.TreeHash != hex.EncodeToString(tree) {
			return fmt.Errorf("the members and %s differ:\n%+v\n%+v", a.DS, a, ds)
		}
		for epoch := range p.epochs {
			if epoch > a.Epoch {
				return fmt.Errorf("a Commit that led to epoch %d is lost: this is epoch %d", epoch, a.Epoch)
			}
		}
		host = slices.IndexFunc(p.servers, func(s *harness.Server) bool { return s.Name == a.DS })
		return nil
	})
	return host
}

// traffic lets all members send and commit until it is stopped. A server may be away meanwhile: what was not acknowledged is
// not owed to anybody.
func (p *party) traffic(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range p.members {
		all.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				p.act(ctx, t, i, n)
				breathe(ctx)
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// act sends a message, or each third time a Commit.
func (p *party) act(ctx context.Context, t *testing.T, i, n int) {
	c := p.members[i]
	if n%3 == 0 {
		var st harness.GroupState
		if c.Do(ctx, "update", nil, &st) != nil {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if other, ok := p.epochs[st.Epoch]; ok && other != st.ConfirmedTranscriptHash {
			t.Errorf("there are two epochs %d", st.Epoch)
		}
		p.epochs[st.Epoch] = st.ConfirmedTranscriptHash
		return
	}
	p.say(i, func(text string) error { return c.Do(ctx, "send", harness.Args{"text": text}, nil) })
}

// say lets a member send something new. Once that is acknowledged, all others have to receive it.
func (p *party) say(i int, send func(text string) error) {
	p.mu.Lock()
	p.said++
	text := fmt.Sprintf("message %d", p.said)
	p.mu.Unlock()
	if send(text) != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for j := range p.owed {
		if j != i {
			p.owed[j] = append(p.owed[j], text)
		}
	}
}

// breathe keeps the members from taking every processor for themselves.
func breathe(ctx context.Context) { wait(ctx, 50*time.Millisecond) }

// collect checks that each member has received what was acknowledged to another one.
func (p *party) collect(t *testing.T) (messages int) {
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
func (p *party) migrate(t *testing.T, target int, enough <-chan struct{}) (end func(t *testing.T) string) {
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

func (p *party) shuttle(ctx context.Context, target int, enough <-chan struct{}) string {
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

// move lets a member move the group to a target, and returns how that ended.
func (p *party) move(ctx context.Context, target int) (state string, err error) {
	var out struct {
		State string `json:"state"`
	}
	mover := p.members[p.movers[target]]
	err = mover.Do(ctx, "migrate", harness.Args{"target": p.servers[target].Name}, &out)
	if err == nil {
		return out.State, nil
	}
	var st harness.GroupState
	if mover.Do(ctx, "state", nil, &st) == nil && st.DS == p.servers[target].Name {
		return "moved", nil // and what failed came after that
	}
	return "", err
}

// wait lets a time pass.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
