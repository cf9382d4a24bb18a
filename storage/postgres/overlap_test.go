package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/outbox"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/storagetest/pgtest"
)

// testOverlap runs two processes of one homeserver on one database, as when one takes over before the other has ended.
// Each epoch accepts exactly one Commit, and every server gets its messages in order.
func testOverlap(t *testing.T, server *pgtest.Server) { testOverlapAt(t, server.Database(t)) }

func testOverlapAt(t *testing.T, database string) {
	const epochs = 40
	got := &receiver{last: make(map[string]uint64), t: t, want: 2 * epochs, done: make(chan struct{})}
	first, second := startProcess(t, database, got), startProcess(t, database, got)
	group, id := bindGroup(t, first)
	for range epochs {
		var accepted []*mlstest.Commit
		var wait sync.WaitGroup
		var mu sync.Mutex
		for leaf, service := range []*delivery.Service{first, second} { // each submits its own Commit of the same epoch
			commit := group.Commit(mlstest.CommitOptions{Sender: uint32(leaf), Path: true})
			wait.Go(func() {
				_, err := service.Submit(t.Context(), members[leaf], id,
					&api.SubmitRequest{Message: commit.Message, GroupInfo: commit.GroupInfo})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					accepted = append(accepted, commit)
				} else if kind := mimiport.KindOf(err); kind != mimiport.KindWrongEpoch {
					t.Errorf("refused with %v", err)
				}
			})
		}
		wait.Wait()
		if len(accepted) != 1 {
			t.Fatalf("%d Commits of epoch %d are accepted", len(accepted), group.Epoch())
		}
		group = accepted[0].Next
	}
	for _, service := range []*delivery.Service{first, second} {
		tree, err := service.RatchetTree(t.Context(), members[0], id, group.Epoch())
		if err != nil || string(tree) != string(group.RatchetTree()) {
			t.Errorf("a process has another tree than the members: %v", err)
		}
	}
	select {
	case <-got.done:
	case <-time.After(time.Minute):
		t.Error("not all messages have arrived")
	}
}

// members are the callers for the group's leaves. Their messages go to two servers.
var members = []api.Caller{{UserID: "@a:a.example", Server: "a.example"}, {UserID: "@b:b.example", Server: "b.example"}}

// startProcess starts one process of the homeserver a.example: its service and its worker.
func startProcess(t *testing.T, database string, got *receiver) *delivery.Service {
	t.Helper()
	store, err := postgres.Open(t.Context(), database, pool)
	if err != nil {
		t.Fatal(err)
	}
	world := deliverytest.New(0, map[string]storage.Store{"a.example": store})
	for _, m := range members {
		world.Room.Join(m.UserID)
	}
	world.RestartWith("a.example", func(d *delivery.Deps) { d.Sender, d.Now = got, time.Now })
	service := world.Service("a.example")
	worker := outbox.New(store, service, []string{"a.example"}, time.Now, func() float64 { return 0 }, service.Log)
	service.SetWake(worker.Wake)
	ctx, cancel := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { worker.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		run.Wait()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return service
}

func bindGroup(t *testing.T, service *delivery.Service) (*mlstest.Group, []byte) {
	t.Helper()
	reserved, err := service.ReserveGroup(t.Context(), members[0], &api.ReserveGroupRequest{RoomID: deliverytest.RoomID})
	if err != nil {
		t.Fatal(err)
	}
	var identities [][]byte
	for _, m := range members {
		identities = append(identities, mlstest.Identity(m.UserID, "DEVICE"))
	}
	group := mlstest.New(mlstest.Options{GroupID: reserved.GroupID, Members: identities})
	_, err = service.BindGroup(t.Context(), members[0], reserved.GroupID, &api.BindGroupRequest{
		Protocol: "mls10", GroupInfo: group.GroupInfo(), RatchetTree: group.RatchetTree(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return group, reserved.GroupID
}

// receiver is the other end of the outbox. It fails the test unless each server gets its messages one at a time and in
// order. A message may arrive twice.
type receiver struct {
	delivery.Sender
	t    *testing.T
	want int
	done chan struct{}

	mu       sync.Mutex
	received int
	last     map[string]uint64
}

func (r *receiver) ToDevice(_ context.Context, _, to string, events []api.DeviceEvent) (arrived int, err error) {
	for i := range events {
		if err := r.receive(to, events[i].Content); err != nil {
			return i, err
		}
	}
	return len(events), nil
}

func (r *receiver) receive(to string, content json.RawMessage) error {
	var message api.FanOut
	if err := json.Unmarshal(content, &message); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch last := r.last[to]; {
	case message.Seq == last:
		return nil
	case message.Seq != last+1:
		r.t.Errorf("%s gets message %d after %d", to, message.Seq, last)
		return errors.New("out of order")
	}
	r.last[to] = message.Seq
	if r.received++; r.received == r.want {
		close(r.done)
	}
	return nil
}
