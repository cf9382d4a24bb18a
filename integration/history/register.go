// Package history checks that a group behaves as one register, wherever it is hosted and whatever fails. The register's
// state is the epoch, and a Commit is a compare-and-set. The package checks the recorded operations of the members.
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

// State names an epoch of a group by a hash that covers all Commits up to the epoch.
type State [32]byte

// Kind is the kind of an operation.
type Kind string

// The kinds.
const (
	Read   Kind = "read"
	Commit Kind = "commit" // a compare-and-set; also a migration Commit
)

// Outcome is the outcome of a Commit, as its sender knows it.
type Outcome string

// The outcomes.
const (
	Accepted Outcome = "accepted"
	Refused  Outcome = "refused"
	Unknown  Outcome = "unknown"
)

// Input is a member's request: a read, or a Commit from the state Before to the state After.
type Input struct {
	Kind          Kind
	Before, After State
}

// Output is the answer to a request.
type Output struct {
	Outcome Outcome // of a Commit
	State   State   // of a read
}

// register is the model of a group (profile, section 7: "One Commit per epoch"). A Commit of unknown outcome may have
// been accepted at any time after its call. The model puts a Commit that was not accepted last.
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

// Recorder keeps the history of one group. It is safe for concurrent use.
type Recorder struct {
	clock atomic.Int64

	mu  sync.Mutex
	ops []porcupine.Operation
}

// Call returns the logical time at which an operation begins.
func (r *Recorder) Call() int64 { return r.clock.Add(1) }

// Return records an operation of a member that ends now. A Commit of unknown outcome never ends.
func (r *Recorder) Return(member int, call int64, in Input, out Output) {
	op := porcupine.Operation{ClientId: member, Input: in, Call: call, Output: out, Return: r.clock.Add(1)}
	if out.Outcome == Unknown {
		op.Return = math.MaxInt64
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, op)
}

// Operations returns the operations recorded so far.
func (r *Recorder) Operations() []porcupine.Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ops)
}

// Count returns the number of Commits with an outcome.
func (r *Recorder) Count(outcome Outcome) (n int) {
	for _, op := range r.Operations() {
		if op.Output.(Output).Outcome == outcome {
			n++
		}
	}
	return n
}

// Possible reports whether the operations are a history of one register that begins in the state first.
func Possible(first State, ops []porcupine.Operation) bool {
	return porcupine.CheckOperations(register(first), effective(ops))
}

// effective returns the operations without the refused Commits. These change nothing, but their many possible orders
// make the check slow.
func effective(ops []porcupine.Operation) (left []porcupine.Operation) {
	for _, op := range ops {
		if op.Output.(Output).Outcome != Refused {
			left = append(left, op)
		}
	}
	return left
}

// Check fails the test unless the operations are a history of one register that begins in the state first. It draws a
// history that is not.
func (r *Recorder) Check(t *testing.T, first State) {
	t.Helper()
	const patience = time.Minute
	ops, model := r.Operations(), register(first)
	result, info := porcupine.CheckOperationsVerbose(model, effective(ops), patience)
	if result == porcupine.Ok {
		return
	}
	t.Errorf("the operations are not a history of one register: %s", result)
	for _, op := range ops {
		t.Logf("%d: %d to %d: %s", op.ClientId, op.Call, op.Return, model.DescribeOperation(op.Input, op.Output))
	}
	drawing := filepath.Join(t.ArtifactDir(), "history.html")
	if err := porcupine.VisualizePath(model, info, drawing); err != nil {
		t.Error(err)
	}
	t.Logf("the drawing is %s; go test -artifacts keeps it", drawing)
}
