package kill

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
)

// traffic lets all members send and commit until stop. Commands may fail, as servers may be down.
func (g *group) traffic(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range g.Members {
		all.Go(func() {
			for n := 1; ctx.Err() == nil; n++ {
				g.act(ctx, t, i, n)
				harness.Breathe(ctx)
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// act sends a Commit if n is a multiple of 3, and else a message.
func (g *group) act(ctx context.Context, t *testing.T, i, n int) {
	c := g.Members[i]
	if n%3 == 0 {
		var st harness.GroupState
		if c.Do(ctx, "update", nil, &st) != nil {
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if other, ok := g.epochs[st.Epoch]; ok && other != st.ConfirmedTranscriptHash {
			t.Errorf("two acknowledged Commits lead to epoch %d", st.Epoch)
		}
		g.epochs[st.Epoch] = st.ConfirmedTranscriptHash
		return
	}
	g.say(i, func(text string) error { return c.Do(ctx, "send", harness.Args{"text": text}, nil) })
}

// say lets a member send a new message. All other members must receive it if the Delivery Service acknowledges it.
func (g *group) say(i int, send func(text string) error) {
	g.mu.Lock()
	g.said++
	text := fmt.Sprintf("message %d", g.said)
	g.mu.Unlock()
	if send(text) != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for j := range g.owed {
		if j != i {
			g.owed[j] = append(g.owed[j], text)
		}
	}
}

// collect checks that each member receives the acknowledged messages of the others, and returns their number.
func (g *group) collect(t *testing.T) (messages int) {
	t.Helper()
	for i, texts := range g.owed {
		for _, text := range texts {
			harness.Do(t, g.Members[i], "wait_for", harness.Args{"kind": "message", "text": text}, nil)
		}
		messages += len(texts)
		g.owed[i] = nil
	}
	return messages
}

// migrate moves the group in the background, first to a target, then back, and so on until enough is closed. end waits
// for the last move.
func (g *group) migrate(t *testing.T, target int, enough <-chan struct{}) (end func() party.Outcome) {
	return harness.Beside(t, func(ctx context.Context) (party.Outcome, error) { return g.shuttle(ctx, target, enough) })
}

func (g *group) shuttle(ctx context.Context, target int, enough <-chan struct{}) (party.Outcome, error) {
	for {
		out, err := party.Migrate(ctx, g.Members[g.movers[target]], g.servers[target].Name)
		over := false
		select {
		case <-enough:
			over = true
		default:
		}
		switch {
		case over && out.State != "":
			return out, nil
		case ctx.Err() != nil:
			return out, err
		case out.State == party.Moved:
			target = 1 - target
		}
		harness.Breathe(ctx)
	}
}
