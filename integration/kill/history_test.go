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

// seedEnv is the environment variable with the seed of the first history. The default is 1.
const seedEnv = "MIMI_SEED"

// The length of a history, without and with MIMI_SOAK, and their number.
const (
	lifetime      = 30 * time.Second
	soakHistories = 20
	soakLifetime  = time.Minute
)

// Profile, section 7: "One Commit per epoch: accepting one is a compare-and-set of the epoch in one transaction with
// tree, log and fan-out." Three members on three homeservers commit, send and move their group at random. Meanwhile
// servers die, stop for a while, lose requests and answers, and have wrong clocks. The members observe the history of
// one register. Each acknowledged message reaches all members. At the end, exactly one server has the group.
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

// story records one history.
type story struct {
	*group
	seed  uint64
	first history.State // the group's state at the beginning
	seen  history.Recorder
	open  []map[string]attempt // Commits of unknown outcome, by member and by new transcript hash

	failed atomic.Int64   // the number of failed commands
	faults map[string]int // the number of faults by name, guarded by group.mu
}

// attempt is a Commit that a member has made.
type attempt struct {
	call   int64
	before history.State
}

// These are a client's events about its Commits.
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
		harness.Do(t, s.Members[i], "take", takeCommits, nil) // the history begins after the group's creation
		s.open = append(s.open, map[string]attempt{})
	}
	s.first = transcript(t, harness.State(t, s.Members[0]).ConfirmedTranscriptHash)
	return s
}

// keepLogs copies the servers' logs to the artifacts of a failed test.
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

// transcript returns the state with a confirmed transcript hash, which is in hexadecimal.
func transcript(t *testing.T, hash string) (s history.State) {
	t.Helper()
	if n, err := hex.Decode(s[:], []byte(hash)); err != nil || n != len(s) {
		t.Errorf("%q is not a confirmed transcript hash", hash)
	}
	return s
}

// random returns the story's source of random numbers with number n.
func (s *story) random(n int) *rand.Rand { return rand.New(rand.NewPCG(s.seed, uint64(n))) }

// tell lets the members act while faults come and go, for the time life, and checks the result. The clocks are still
// wrong when all other faults have ended.
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

// live lets a member act at random until over is closed.
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

// try gives a member's client a command that may fail, and records the outcomes of the member's Commits.
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

// end records the outcome of a member's Commit. to is its new transcript hash.
func (s *story) end(t *testing.T, i int, to string, outcome history.Outcome) {
	a, ok := s.open[i][to]
	if !ok {
		t.Errorf("%s has made no Commit to %s", s.Members[i].Name, to)
	}
	delete(s.open[i], to)
	in := history.Input{Kind: history.Commit, Before: a.before, After: transcript(t, to)}
	s.seen.Return(i, a.call, in, history.Output{Outcome: outcome})
}

// giveUp records all Commits that are still open as Unknown.
func (s *story) giveUp(t *testing.T) {
	for i, open := range s.open {
		for to := range open {
			s.end(t, i, to, history.Unknown)
		}
	}
}

// sync lets a member read the log, and records a read of the state that the member reaches.
func (s *story) sync(ctx context.Context, t *testing.T, i int) (st harness.GroupState) {
	call := s.seen.Call()
	if s.try(ctx, t, i, "sync", nil, &st) == nil {
		s.read(i, call, transcript(t, st.ConfirmedTranscriptHash))
	}
	return st
}

// look lets a member ask a server for the group, and records a read if the server says that it has the group.
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

// finish lets a member finish its migration and its pending Commit.
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
			return cmp.Or(s.try(ctx, t, i, "migration_finish", nil, nil), errors.New("a migration was pending"))
		case st.PendingCommit:
			return s.try(ctx, t, i, "update", nil, nil)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%s cannot finish: %v", s.Members[i].Name, err)
	}
}

// forge changes the recorded history in three ways, and checks that history.Possible refuses each.
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
		t.Error("no Commit was accepted")
		return
	}
	i := accepted[random.IntN(len(accepted))]
	fork := ops[i]
	in := fork.Input.(history.Input)
	in.After = history.State{}
	fork.Input = in
	if history.Possible(s.first, append(slices.Clone(ops), fork)) {
		t.Error("history.Possible accepts two Commits on one state")
	}
	if history.Possible(s.first, slices.Delete(slices.Clone(ops), i, i+1)) {
		t.Error("history.Possible accepts a lost Commit")
	}
	s.read(0, s.seen.Call(), s.first)
	if history.Possible(s.first, s.seen.Operations()) {
		t.Error("history.Possible accepts a read of an old state")
	}
}

// disturbServers kills a server, pauses it, or sets its clock, again and again until ctx ends.
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

// anyPoint returns a random fail point of a hand-over, with the number of the pass that kills the server.
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

// disturbNetwork begins and ends faults between the servers until ctx ends.
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

// lastFor waits for the duration of a fault: mostly up to a second, sometimes longer than decide_by.
func lastFor(ctx context.Context, random *rand.Rand) {
	pauseFor(ctx, random, []time.Duration{time.Second, time.Second, time.Second, 2 * lasting}[random.IntN(4)])
}

// pauseFor waits for a random time of at most most.
func pauseFor(ctx context.Context, random *rand.Rand, most time.Duration) {
	harness.Wait(ctx, time.Duration(random.Int64N(int64(most))))
}

func (s *story) struck(fault string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[fault]++
}
