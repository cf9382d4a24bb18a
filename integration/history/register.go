// Package history checks what the members of a group have seen against what a group is: one register, whose state is
// the epoch and whose compare-and-set is the Commit, wherever it is hosted and whatever fails.
package history

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// State is an epoch of a group, by a hash that covers all Commits that have led to it.
type State [32]byte

// Kind is what a member does.
type Kind string

// The kinds.
const (
	Read   Kind = "read"
	Commit Kind = "commit" // a compare-and-set; migration Commits too
)

// Outcome is how a Commit ended, as far as its sender knows.
type Outcome string

// The outcomes.
const (
	Accepted Outcome = "accepted"
	Refused  Outcome = "refused"
	Unknown  Outcome = "unknown"
)

// Input is what a member asks for: to read, or to go from one state of the group to another.
type Input struct {
	Kind          Kind
	Before, After State
}

// Output is what the member is told.
type Output struct {
	Outcome Outcome // of a Commit
	State   State   // of a read
}

// register is what a group is: one register, compare-and-set by Commits, wherever it is hosted (profile, section 7:
// "One Commit per epoch"). A Commit whose outcome is not known may have been accepted at any later time; one that was
// not goes last.
func register(first State) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return first },
		Step: func(state, in, out any) (bool, any) {
			now, i, o := state.(State), in.(Input), out.(Output)
			switch {
			case i.Kind == Read:
				return o.State == now, now
			case o.Outcome == Accepted:
				return i.Before == now, i.After
			case o.Outcome == Unknown && i.Before == now:
				return true, i.After
			}
			return true, now
		},
		DescribeOperation: func(in, out any) string {
			i, o := in.(Input), out.(Output)
			if i.Kind == Read {
				return fmt.Sprintf("read %x", o.State[:2])
			}
			return fmt.Sprintf("commit %x → %x: %s", i.Before[:2], i.After[:2], o.Outcome)
		},
	}
}

// Recorder keeps the history of one group. Its methods may be called by all members at once.
type Recorder struct {
	clock atomic.Int64

	mu  sync.Mutex
	ops []porcupine.Operation
}

// Call is the time at which an operation begins.
func (r *Recorder) Call() int64 { return r.clock.Add(1) }

// Return notes an operation of a member that has ended just now. A Commit whose outcome is unknown does not end.
func (r *Recorder) Return(member int, call int64, in Input, out Output) {
	op := porcupine.Operation{ClientId: member, Input: in, Call: call, Output: out, Return: r.clock.Add(1)}
	if out.Outcome == Unknown {
		op.Return = math.MaxInt64
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, op)
}

// Operations are all that were noted so far.
func (r *Recorder) Operations() []porcupine.Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ops)
}

// Count is how many Commits ended in one way.
func (r *Recorder) Count(outcome Outcome) (n int) {
	for _, op := range r.Operations() {
		if op.Output.(Output).Outcome == outcome {
			n++
		}
	}
	return n
}

// Possible is whether operations, from a first state on, are the history of one register.
func Possible(first State, ops []porcupine.Operation) bool {
	return porcupine.CheckOperations(register(first), effective(ops))
}

// effective leaves out the Commits that were refused: they have done nothing, and the many orders that they could have
// taken cost time.
func effective(ops []porcupine.Operation) (left []porcupine.Operation) {
	for _, op := range ops {
		if op.Output.(Output).Outcome != Refused {
			left = append(left, op)
		}
	}
	return left
}

// Check fails the test unless what was noted, from a first state on, is the history of one register, and then draws it.
func (r *Recorder) Check(t *testing.T, first State) {
	t.Helper()
	const patience = time.Minute
	ops, model := r.Operations(), register(first)
	result, info := porcupine.CheckOperationsVerbose(model, effective(ops), patience)
	if result == porcupine.Ok {
		return
	}
	t.Errorf("this is not the history of one register: %s", result)
	for _, op := range ops {
		t.Logf("%d: %d to %d: %s", op.ClientId, op.Call, op.Return, model.DescribeOperation(op.Input, op.Output))
	}
	drawing := filepath.Join(t.ArtifactDir(), "history.html")
	if err := porcupine.VisualizePath(model, info, drawing); err != nil {
		t.Error(err)
	}
	t.Logf("drawn in %s, which go test -artifacts keeps", drawing)
}
