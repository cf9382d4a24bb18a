package delivery_test

import (
	"context"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// askedRooms are rooms that call asked before they answer.
type askedRooms struct {
	delivery.Rooms
	asked func()
}

func (r *askedRooms) Room(ctx context.Context, roomID string) (delivery.Room, error) {
	r.asked()
	return r.Rooms.Room(ctx, roomID)
}

// askedFirst makes A call asked when it asks its host about a room.
func (p *play) askedFirst(asked func()) {
	p.RestartWith(serverA, func(d *delivery.Deps) { d.Rooms = &askedRooms{d.Rooms, asked} })
}

// TestGroupIsFreeWhileHostAnswers: the server does not hold a group while it asks its host about the group's room. A
// host that hangs does not block the group.
func TestGroupIsFreeWhileHostAnswers(t *testing.T) {
	for name, route := range map[string]func(p *play, a *delivery.Service) error{
		"message": func(p *play, _ *delivery.Service) error {
			return p.submission(bob, &api.SubmitRequest{Message: p.group.Application(nil, 10)})()
		},
		"commit": func(p *play, _ *delivery.Service) error {
			return p.commission(bob, mlstest.CommitOptions{Sender: leafOf[bob], Path: true})()
		},
		"bind": func(p *play, a *delivery.Service) error {
			reserved := must(a.ReserveGroup(t.Context(), caller(alice), &forRoom))(t)
			p.id = reserved.GroupID
			return p.bindAnother(alice, reserved, alice)
		},
		"init": func(p *play, _ *delivery.Service) error {
			swap := func(o *mlstest.CommitOptions, entry []byte) {
				o.Proposals = []*mlstest.Proposal{p.group.SetExtensions(externalSenders(entry))}
			}
			a := p.swapRequest(bob, swap)
			defer p.run() // the vote and the decision
			return failure(p.initiate(a))
		},
		"close": func(p *play, _ *delivery.Service) error { return failure(p.close(serverA, bob)) },
		"report": func(p *play, a *delivery.Service) error {
			seq := p.commit(serverA, alice, mlstest.CommitOptions{}).Seq
			return failure(a.Report(t.Context(), caller(bob), p.id, &api.ReportRequest{Seq: seq}))
		},
		"leave": func(p *play, _ *delivery.Service) error {
			p.leave(serverA, carol)
			return nil
		},
		"device": func(p *play, _ *delivery.Service) error {
			p.changed(serverA, carol)
			return nil
		},
		"removal by an operator": func(p *play, a *delivery.Service) error { return failure(a.Expel(t.Context(), p.id)) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newExternalPlay(t)
			asked := 0
			p.askedFirst(func() {
				asked++
				// This takes the group's lock, and asks nobody.
				row := storage.Row{Destination: serverA, Queue: "test", Order: 1, Kind: storage.RowCompact, GroupID: p.id}
				_ = p.services[serverA].Do(t.Context(), row) // the group may have no state yet
			})
			if err := route(p, p.services[serverA]); err != nil || asked == 0 {
				t.Errorf("asked %d times: %v", asked, err)
			}
		})
	}
}

// TestNewsBeforeADecision: when the host tells of a change of the room while the server decides, the server asks again.
// A user who was kicked meanwhile sends no message, and moves no group.
func TestNewsBeforeADecision(t *testing.T) {
	for name, route := range map[string]func(p *play) func() error{
		"message": func(p *play) func() error {
			return p.submission(bob, &api.SubmitRequest{Message: p.group.Application(nil, 10)})
		},
		"init": func(p *play) func() error {
			m := p.mustRequest(serverA, serverB, bob)
			return func() error { return failure(p.initiate(m)) }
		},
		"close": func(p *play) func() error { return func() error { return failure(p.close(serverA, bob)) } },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlay(t)
			route := route(p)
			p.Room.Newer = func() bool {
				p.Room.Newer, p.Room.Joined[bob] = nil, false
				return true
			}
			expectKind(t, route(), mimiport.KindForbidden)
		})
	}
}

// TestBusyRoom: a room that changes all the time does not keep the server from deciding.
func TestBusyRoom(t *testing.T) {
	p := newPlay(t)
	p.Room.Newer = func() bool { return true }
	p.say(serverA, bob)
	p.commit(serverA, alice, mlstest.CommitOptions{})
}
