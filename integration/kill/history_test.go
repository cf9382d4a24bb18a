package kill

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/history"
)

// seedEnv names the environment variable with the seed of the first history.
const seedEnv = "MIMI_SEED"

// How many histories there are, and how long things go wrong in each.
const (
	lifetime      = 30 * time.Second
	soakHistories = 20
	soakLifetime  = time.Minute
)

// Profile, section 7: "One Commit per epoch: accepting one is a compare-and-set of the epoch in one transaction with
// tree, log and fan-out." Three members on three homeservers commit, send and move their group about at random, while
// servers die, stand still, lose requests and answers, and have wrong clocks. What the members have seen is the history
// of one register; each message whose sending was acknowledged reaches everybody; and exactly one server has the group
// in the end.
func TestHistories(t *testing.T) {
	first, err := strconv.ParseUint(cmp.Or(os.Getenv(seedEnv), "1"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	n, life := uint64(1), lifetime
	if os.Getenv(soakEnv) != "" {
		n, life = soakHistories, soakLifetime
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprintf("%s=%d", seedEnv, seed), func(t *testing.T) { newStory(t, seed).tell(t, life) })
	}
}

// story is a history in the making.
type story struct {
	*group
	seed  uint64
	first history.State // where the group is when it begins
	seen  history.Recorder
	open  []map[string]attempt // by member and by where they lead: Commits of which it is not known how they ended

	failed atomic.Int64   // commands
	faults map[string]int // how often each has struck, with party.mu
}

// attempt is a Commit that a member has made.
type attempt struct {
	call   int64
	before history.State
}

// What a client tells of its Commits.
const (
	commitMade  = "commit"
	commitEnded = "commit_ended"
)

var takeCommits = harness.Args{"kinds": []string{commitMade, commitEnded}}

func newStory(t *testing.T, seed uint64) *story {
	t.Helper()
	s := &story{group: newLinkedGroup(t), seed: seed, faults: map[string]int{}}
	t.Cleanup(func() { s.keepLogs(t) })
	s.requireSettled(t)
	for i := range s.Members {
		harness.Do(t, s.Members[i], "take", takeCommits, nil) // how the group was made is no part of the history
		s.open = append(s.open, map[string]attempt{})
	}
	s.first = transcript(t, harness.State(t, s.Members[0]).ConfirmedTranscriptHash)
	return s
}

// keepLogs keeps what the servers have written, where it has to be understood.
func (s *story) keepLogs(t *testing.T) {
	if !t.Failed() {
		return
	}
	for i, server := range s.servers {
		log, err := os.ReadFile(server.LogFile())
		path := filepath.Join(t.ArtifactDir(), fmt.Sprintf("server-%d.log", i))
		if err := errors.Join(err, os.WriteFile(path, log, 0o600)); err != nil {
			t.Error(err)
		}
	}
}

// transcript is the state that a confirmed transcript hash names, in hexadecimal.
func transcript(t *testing.T, hash string) (s history.State) {
	t.Helper()
	if n, err := hex.Decode(s[:], []byte(hash)); err != nil || n != len(s) {
		t.Errorf("no confirmed transcript hash: %q", hash)
	}
	return s
}

// random is one of the story's sources of chance.
func (s *story) random(n int) *rand.Rand { return rand.New(rand.NewPCG(s.seed, uint64(n))) }

// tell lets the members live while things go wrong, and checks what has come of it. When everything else is right
// again, the clocks are still wrong.
func (s *story) tell(t *testing.T, life time.Duration) {
	young, cancel := context.WithTimeout(t.Context(), life)
	defer cancel()
	ctx, cancel := context.WithTimeout(t.Context(), life+4*harness.Patience)
	defer cancel()
	var lives, network sync.WaitGroup
	for i := range s.Members {
		lives.Go(func() { s.live(ctx, young.Done(), t, i) })
	}
	network.Go(func() { s.disturbNetwork(young) })
	s.disturbServers(young, t)
	network.Wait()
	lives.Wait()
	for i := range s.Members {
		s.finish(ctx, t, i)
	}
	host := s.requireSettled(t)
	var st harness.GroupState
	for i := range s.Members {
		st = s.sync(ctx, t, i)
	}
	s.giveUp(t)
	received := s.collect(t)
	s.audit(t, host)
	s.seen.Check(t, s.first)
	t.Logf("%d operations; Commits: %d accepted, %d refused, %d unknown; %d moves; %d messages received; "+
		"%d commands failed; faults: %v", len(s.seen.Operations()),
		s.seen.Count(history.Accepted), s.seen.Count(history.Refused), s.seen.Count(history.Unknown),
		st.Term, received, s.failed.Load(), s.faults)
	s.forge(t)
}

// live is a member's life.
func (s *story) live(ctx context.Context, over <-chan struct{}, t *testing.T, i int) {
	random := s.random(i)
	for {
		select {
		case <-over:
			return
		default:
		}
		someServer := s.servers[random.IntN(len(s.servers))].Name
		switch n := random.IntN(10); {
		case n < 2:
			_ = s.try(ctx, t, i, "migrate", harness.Args{"target": someServer}, nil)
		case n < 5:
			s.say(i, func(text string) error { return s.try(ctx, t, i, "send", harness.Args{"text": text}, nil) })
		case n < 6:
			s.sync(ctx, t, i)
		case n < 7:
			s.look(ctx, t, i, someServer)
		default:
			_ = s.try(ctx, t, i, "update", nil, nil)
		}
		harness.Breathe(ctx)
	}
}

// try lets a member do something that may fail, and notes what has become of their Commits.
func (s *story) try(ctx context.Context, t *testing.T, i int, command string, args harness.Args, out any) error {
	call := s.seen.Call()
	failed := s.Members[i].Do(ctx, command, args, out)
	if failed != nil {
		s.failed.Add(1)
	}
	var events []struct {
		Event, From, To string
		Accepted        bool
	}
	if err := s.Members[i].Do(ctx, "take", takeCommits, &events); err != nil {
		t.Error(err)
	}
	for _, e := range events {
		if e.Event == commitMade {
			s.open[i][e.To] = attempt{call, transcript(t, e.From)}
			continue
		}
		outcome := history.Refused
		if e.Accepted {
			outcome = history.Accepted
		}
		s.end(t, i, e.To, outcome)
	}
	return failed
}

// end notes how a Commit has ended.
func (s *story) end(t *testing.T, i int, to string, outcome history.Outcome) {
	a, ok := s.open[i][to]
	if !ok {
		t.Errorf("%s has not made the Commit to %s", s.Members[i].Name, to)
	}
	delete(s.open[i], to)
	in := history.Input{Kind: history.Commit, Before: a.before, After: transcript(t, to)}
	s.seen.Return(i, a.call, in, history.Output{Outcome: outcome})
}

// giveUp notes the Commits of which nobody will know any more how they ended.
func (s *story) giveUp(t *testing.T) {
	for i, open := range s.open {
		for to := range open {
			s.end(t, i, to, history.Unknown)
		}
	}
}

// sync lets a member read the log: the state that this leads to is the group's.
func (s *story) sync(ctx context.Context, t *testing.T, i int) (st harness.GroupState) {
	call := s.seen.Call()
	if s.try(ctx, t, i, "sync", nil, &st) == nil {
		s.read(i, call, transcript(t, st.ConfirmedTranscriptHash))
	}
	return st
}

// look lets a member ask any of the servers for the group. One that says that it has the group must know its state.
func (s *story) look(ctx context.Context, t *testing.T, i int, server string) {
	call := s.seen.Call()
	var ds struct {
		State                   string
		ConfirmedTranscriptHash string `json:"confirmed_transcript_hash"`
	}
	if s.try(ctx, t, i, "ds_info", harness.Args{"ds": server}, &ds) != nil {
		return
	}
	hash, err := base64.RawStdEncoding.DecodeString(ds.ConfirmedTranscriptHash)
	if err != nil {
		t.Error(err)
	}
	s.read(i, call, transcript(t, hex.EncodeToString(hash)))
}

func (s *story) read(i int, call int64, state history.State) {
	s.seen.Return(i, call, history.Input{Kind: history.Read}, history.Output{State: state})
}

// finish lets a member bring to its end what it has begun.
func (s *story) finish(ctx context.Context, t *testing.T, i int) {
	err := harness.Poll(harness.Within(t), func(context.Context) error {
		var st struct {
			Migration     *string
			PendingCommit bool `json:"pending_commit"`
		}
		err := s.try(ctx, t, i, "state", nil, &st)
		switch {
		case err != nil:
			return err
		case st.Migration != nil:
			return cmp.Or(s.try(ctx, t, i, "migration_finish", nil, nil), errors.New("it was still moving the group"))
		case st.PendingCommit:
			return s.try(ctx, t, i, "update", nil, nil)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%s cannot finish: %v", s.Members[i].Name, err)
	}
}

// forge checks that the recording would show it if the servers were not one register.
func (s *story) forge(t *testing.T) {
	ops := s.seen.Operations()
	random := s.random(len(s.Members) + 2)
	var accepted []int
	for i, op := range ops {
		if op.Output.(history.Output).Outcome == history.Accepted {
			accepted = append(accepted, i)
		}
	}
	if len(accepted) == 0 {
		t.Error("nothing was accepted")
		return
	}
	i := accepted[random.IntN(len(accepted))]
	fork := ops[i]
	in := fork.Input.(history.Input)
	in.After = history.State{}
	fork.Input = in
	if history.Possible(s.first, append(slices.Clone(ops), fork)) {
		t.Error("two Commits accepted on one state are not seen")
	}
	if history.Possible(s.first, slices.Delete(slices.Clone(ops), i, i+1)) {
		t.Error("a Commit that was lost is not seen")
	}
	s.read(0, s.seen.Call(), s.first)
	if history.Possible(s.first, s.seen.Operations()) {
		t.Error("a server that is behind is not seen")
	}
}

// disturbServers lets one server after the other die, stand still or have another time.
func (s *story) disturbServers(ctx context.Context, t *testing.T) {
	random := s.random(len(s.Members))
	for ctx.Err() == nil {
		pauseFor(ctx, random, 2*time.Second)
		server := s.servers[random.IntN(len(s.servers))]
		switch random.IntN(4) {
		case 0:
			s.struck("killed")
			start := kill(t, server)
			pauseFor(ctx, random, time.Second)
			start(t)
		case 1:
			s.struck("stood still")
			resume := pause(t, server)
			lastFor(ctx, random)
			resume(t)
		case 2:
			s.struck("another time")
			setClock(t, server, time.Duration(random.Int64N(int64(4*time.Hour)))-2*time.Hour)
		default:
			s.arm(t, server, anyPoint(random))
			if diesWithin(ctx, server, 3*time.Second) {
				s.struck("killed at a point")
			}
			s.arm(t, server, "")
		}
	}
}

// anyPoint is a fail point of a hand-over, one of the first times that it is passed.
func anyPoint(random *rand.Rand) string {
	pl := plots[random.IntN(len(plots))]
	when := []string{"before", "after"}[random.IntN(2)]
	point := strings.ReplaceAll(pl[0].point, "%s", when)
	return fmt.Sprintf("%s:%d", point[:strings.LastIndex(point, ":")], 1+random.IntN(3))
}

func diesWithin(ctx context.Context, s *harness.Server, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.Exited():
	case <-timer.C:
	case <-ctx.Done():
	}
	return ended(s)
}

// disturbNetwork lets faults befall what goes between servers.
func (s *story) disturbNetwork(ctx context.Context) {
	random := s.random(len(s.Members) + 1)
	defer s.network.Links.Mend()
	for ctx.Err() == nil {
		pauseFor(ctx, random, 2*time.Second)
		from := random.IntN(len(s.servers))
		to := (from + 1 + random.IntN(len(s.servers)-1)) % len(s.servers)
		s.struck("network")
		f := []harness.Fault{harness.Refused, harness.BlackHole, harness.AnswersLost, harness.Slow}[random.IntN(4)]
		s.network.Links.Set(s.servers[from], s.servers[to], f)
		if random.IntN(2) == 0 {
			s.network.Links.Set(s.servers[to], s.servers[from], f)
		}
		lastFor(ctx, random)
		s.network.Links.Mend()
	}
}

// lastFor waits as long as something goes wrong: mostly a moment, and now and then longer than there is time to decide.
func lastFor(ctx context.Context, random *rand.Rand) {
	pauseFor(ctx, random, []time.Duration{time.Second, time.Second, time.Second, 2 * lasting}[random.IntN(4)])
}

// pauseFor waits for some time of at most so long.
func pauseFor(ctx context.Context, random *rand.Rand, most time.Duration) {
	harness.Wait(ctx, time.Duration(random.Int64N(int64(most))))
}

func (s *story) struck(fault string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[fault]++
}
