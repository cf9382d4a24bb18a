package history

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/fsck"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest"
)

// historiesEnv is the environment variable with the number of histories. The default is 100.
const historiesEnv = "MIMI_HISTORIES"

// users are the members. Each of them can move the group to the own server.
var users = []string{"@alice:a.example", "@bob:b.example", "@carol:c.example"}

// play records one history.
type play struct {
	t       *testing.T
	w       *deliverytest.World
	members []*deliverytest.Member
	stores  map[string]*storagetest.Faulty
	inside  map[string]*memory.Store
	loss    atomic.Uint64          // lost requests of 1000
	cut     atomic.Pointer[string] // the server that is cut off from all others
	rounds  *rounds
	seen    Recorder

	mu   sync.Mutex
	owed [][]byte // the acknowledged messages
}

func newPlay(t *testing.T, seed uint64) *play {
	t.Helper()
	p := &play{t: t, stores: map[string]*storagetest.Faulty{}, inside: map[string]*memory.Store{}, rounds: newRounds()}
	stores := map[string]storage.Store{}
	for _, name := range []string{"a.example", "b.example", "c.example"} {
		p.inside[name] = memory.New()
		p.stores[name] = &storagetest.Faulty{Store: p.inside[name]}
		stores[name] = p.stores[name]
	}
	p.w = deliverytest.New(seed, stores)
	p.w.Lose = func(m deliverytest.Message) bool {
		cut := p.cut.Load()
		return rand.Uint64N(1000) < p.loss.Load() || cut != nil && (m.From == *cut || m.To == *cut)
	}
	_, members, err := deliverytest.NewGroup(t.Context(), p.w, "a.example", users...)
	if err != nil {
		t.Fatal(err)
	}
	p.members = members
	return p
}

// rounds lets members wait until the servers have done their work of a round.
type rounds struct {
	mu   sync.Mutex
	next chan struct{}
}

func newRounds() *rounds { return &rounds{next: make(chan struct{})} }

func (r *rounds) wait() {
	r.mu.Lock()
	next := r.next
	r.mu.Unlock()
	<-next
}

func (r *rounds) over() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.next)
	r.next = make(chan struct{})
}

// commit submits a Commit and records its outcome.
func (p *play) commit(member int, c *deliverytest.Proposed, submit func() Outcome) {
	call := p.seen.Call()
	p.seen.Return(member, call, Input{Kind: Commit, Before: c.Before, After: c.After}, Output{Outcome: submit()})
}

// live lets a member act ten times at random.
func (p *play) live(ctx context.Context, i int, random *rand.Rand) {
	const actions = 10
	m := p.members[i]
	for range actions {
		switch n := random.IntN(10); {
		case n < 2:
			p.move(ctx, i, p.w.Servers()[i])
		case n < 5:
			p.send(ctx, m)
		case n < 6:
			p.look(ctx, i)
		default:
			c := m.NewCommit()
			p.commit(i, c, func() Outcome { return p.insist(ctx, m, func() (bool, error) { return true, m.Submit(ctx, c) }) })
		}
		_ = m.Sync(ctx) // a later one may succeed
		p.rounds.wait()
	}
}

// insist calls try until the outcome of a Commit is known, at most 30 times. A server that no longer has the group does
// not say whether it accepted the Commit when its answer was lost. Nor does a server to which the group has come back.
func (p *play) insist(ctx context.Context, m *deliverytest.Member, try func() (ended bool, err error)) Outcome {
	gone, term := Refused, m.Term
	for range 30 {
		ended, err := try()
		switch mimiport.KindOf(err) {
		case mimiport.KindWrongEpoch, mimiport.KindInProgress, mimiport.KindOfferExpired,
			mimiport.KindForbidden, mimiport.KindInvalid, mimiport.KindEnded:
			if gone == Refused || m.Sync(ctx) == nil && m.Term == term {
				return Refused
			}
			return Unknown
		case mimiport.KindMoved, mimiport.KindUnknownGroup:
			return gone
		}
		gone = Unknown
		if err == nil && ended {
			return Accepted
		}
		p.rounds.wait()
	}
	return Unknown
}

func (p *play) send(ctx context.Context, m *deliverytest.Member) {
	if message := m.NewMessage(); m.Send(ctx, message) == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.owed = append(p.owed, message)
	}
}

func (p *play) look(ctx context.Context, i int) {
	call := p.seen.Call()
	if state, err := p.members[i].Look(ctx); err == nil {
		p.seen.Return(i, call, Input{Kind: Read}, Output{State: state})
	}
}

// move moves the group to the member's server, unless the group is there.
func (p *play) move(ctx context.Context, i int, target string) {
	m := p.members[i]
	if m.DS == target {
		return
	}
	c, err := m.NewMigration(ctx, target)
	if err != nil {
		return
	}
	p.commit(i, c, func() Outcome {
		aborted := false
		end := p.insist(ctx, m, func() (bool, error) {
			st, err := m.Initiate(ctx, c)
			aborted = err == nil && st.State == "aborted"
			return aborted || err == nil && st.State != "frozen", err
		})
		if aborted {
			return Refused
		}
		return end
	})
}

// disturb begins and ends faults until the members have finished.
func (p *play) disturb(ctx context.Context, random *rand.Rand, done <-chan struct{}) {
	p.loss.Store(random.Uint64N(200))
	for {
		select {
		case <-done:
			return
		default:
		}
		name := p.w.Servers()[random.IntN(len(p.stores))]
		pause := 5 * time.Second
		switch random.IntN(16) {
		case 0:
			p.w.Restart(name)
		case 1:
			p.stores[name].FailBefore(1 + random.IntN(3))
		case 2:
			p.stores[name].FailAfter(1 + random.IntN(3))
		case 3:
			p.w.Jump(name, time.Duration(random.Int64N(int64(4*time.Hour)))-2*time.Hour)
		case 4:
			p.cut.Store(&name)
		case 5, 6:
			p.cut.Store(nil)
		case 7:
			pause = 15 * time.Minute // offers expire
		case 8:
			p.w.Rotate(name)
		}
		p.round(ctx, time.Duration(random.Int64N(int64(pause))))
	}
}

// round lets a time pass, and lets each server do its due work.
func (p *play) round(ctx context.Context, d time.Duration) {
	p.w.Pass(d)
	for _, name := range p.w.Servers() {
		if _, err := p.w.Work(ctx, name); err != nil && !errors.Is(err, storagetest.ErrInjected) {
			p.t.Errorf("%s: %v", name, err)
		}
	}
	p.rounds.over()
	runtime.Gosched()
}

// heal ends all faults except wrong clocks. It waits until all members agree and have received all acknowledged
// messages.
func (p *play) heal(ctx context.Context) error {
	p.loss.Store(0)
	p.cut.Store(nil)
	for _, store := range p.stores {
		store.FailBefore(0)
		store.FailAfter(0)
	}
	var err error
	for range 1000 {
		p.round(ctx, time.Second)
		if err = p.settled(ctx); err == nil {
			return nil
		}
	}
	return err
}

func (p *play) settled(ctx context.Context) error {
	first := p.members[0]
	for _, m := range p.members {
		if err := m.Sync(ctx); err != nil {
			return fmt.Errorf("%s: %w", m.User, err)
		}
		if state, err := m.Look(ctx); err != nil || state != first.State() || m.State() != first.State() ||
			m.DS != first.DS || m.Term != first.Term {
			return fmt.Errorf("%s is at %s in term %d, the first member at %s in term %d (%w)",
				m.User, m.DS, m.Term, first.DS, first.Term, err)
		}
		for n, message := range p.owed {
			if !p.w.Received(m.User, message) {
				return fmt.Errorf("%s has not received message %d", m.User, n)
			}
		}
	}
	return nil
}

// audit checks the servers' stores: each is consistent, and exactly one server has the group.
func (p *play) audit(ctx context.Context) {
	p.t.Helper()
	hosts := 0
	for name, store := range p.inside {
		report, err := fsck.Check(ctx, store, deliverytest.Engines())
		if err != nil {
			p.t.Fatal(err)
		}
		for _, problem := range report.Problems {
			p.t.Errorf("%s: %s", name, problem)
		}
		g, err := store.Group(ctx, p.members[0].ID)
		if err == nil && (g.State == migration.GroupActive || g.State == migration.GroupFrozen) {
			hosts++
		}
	}
	if hosts != 1 {
		p.t.Errorf("%d servers have the group", hosts)
	}
}

// TestForksAreSeen: the model refuses two Commits accepted on one state, and a read of a state that another one has
// replaced.
func TestForksAreSeen(t *testing.T) {
	a, b, c := State{1}, State{2}, State{3}
	for name, second := range map[string]struct {
		in  Input
		out Output
	}{
		"fork":       {Input{Commit, a, c}, Output{Outcome: Accepted}},
		"stale read": {Input{Kind: Read}, Output{State: a}},
	} {
		var seen Recorder
		seen.Return(0, seen.Call(), Input{Commit, a, b}, Output{Outcome: Accepted})
		seen.Return(1, seen.Call(), second.in, second.out)
		if Possible(a, seen.Operations()) {
			t.Errorf("the model accepts %s", name)
		}
	}
}

// Profile, section 7: "One Commit per epoch: accepting one is a compare-and-set of the epoch in one transaction with
// tree, log and fan-out." Under all faults, the Commits that members know of are one history, wherever the group was.
// Every acknowledged message reaches all members. At the end, exactly one server has the group.
func TestHistories(t *testing.T) {
	n := uint64(100)
	if s := os.Getenv(historiesEnv); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 32); err != nil {
			t.Fatal(err)
		}
	}
	var commits, moves, messages atomic.Int64
	t.Run("each", func(t *testing.T) {
		for seed := range n {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				p := history(t, seed)
				commits.Add(int64(p.seen.Count(Accepted)))
				moves.Add(int64(p.members[0].Term))
				messages.Add(int64(len(p.owed)))
			})
		}
	})
	t.Logf("%d histories: %d Commits, %d moves, %d messages", n, commits.Load(), moves.Load(), messages.Load())
	if commits.Load() == 0 || moves.Load() == 0 || messages.Load() == 0 {
		t.Error("a history without Commits, moves or messages proves nothing")
	}
}

func history(t *testing.T, seed uint64) *play {
	p := newPlay(t, seed)
	first := p.members[0].State()
	random := func(n int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(n))) }
	var lives sync.WaitGroup
	for i := range p.members {
		lives.Go(func() { p.live(t.Context(), i, random(i)) })
	}
	done := make(chan struct{})
	go func() {
		lives.Wait()
		close(done)
	}()
	p.disturb(t.Context(), random(len(users)), done)
	if err := p.heal(t.Context()); err != nil {
		t.Error(err)
	}
	p.audit(t.Context())
	p.seen.Check(t, first)
	return p
}
