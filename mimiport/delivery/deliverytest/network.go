package deliverytest

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
)

// Message is a request from one server to another, or the answer to it.
type Message struct {
	From, To string

	// What is one of to-device, content, confirmation, abort, lineage, status and intake for a request between servers,
	// and request for one of a user through their homeserver. What comes back is a vote, or else an answer.
	What string
}

// Delivery is a fan-out event that a device has received.
type Delivery struct {
	User, Device string
	api.FanOut
}

// Asked is a request to move a group that devices have received, by user.
type Asked struct {
	mimiport.MoveRequest
	KeyID   string
	Devices map[string][]string
}

// Received reports whether a device of a user has got a message.
func (w *World) Received(user string, message []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.Got, func(d Delivery) bool { return d.User == user && bytes.Equal(d.Message, message) })
}

// Network carries messages between servers, unless they get lost.
func (w *World) Network() delivery.Sender { return network{w} }

type network struct{ w *World }

// carry carries one message.
func (w *World) carry(m Message) error {
	if w.Lose != nil && w.Lose(m) {
		return mimiport.Errorf("send", mimiport.KindPeer, "the %s from %s to %s was lost", m.What, m.From, m.To)
	}
	return nil
}

// exchange carries a request and its answer.
func (w *World) exchange(request Message, serve func(*delivery.Service) error) error {
	if err := w.carry(request); err != nil {
		return err
	}
	err := serve(w.Service(request.To))
	back := Message{From: request.To, To: request.From, What: "answer"}
	if request.What == "content" && err == nil {
		back.What = "vote"
	}
	if lost := w.carry(back); lost != nil {
		return lost
	}
	return err
}

// extend is exchange for a request that the draft does not have.
func (w *World) extend(request Message, serve func(*delivery.Service) error) error {
	if request.To == w.Draft {
		return mimiport.Errorf(request.What, mimiport.KindUnrecognized, "no such route")
	}
	return w.exchange(request, serve)
}

func (n network) ToDevice(
	_ context.Context, from, to string, events []api.DeviceEvent,
) (arrived int, err error) {
	for i := range events {
		deliver := n.fanOut
		if events[i].Type == api.EventMoveRequest {
			deliver = n.moveRequest
		}
		if err := n.toDevice(from, to, &events[i], deliver); err != nil {
			return i, err
		}
	}
	return len(events), nil
}

func (n network) toDevice(from, to string, e *api.DeviceEvent, deliver func(*api.DeviceEvent) error) error {
	return n.w.exchange(Message{from, to, "to-device"}, func(*delivery.Service) error {
		n.w.mu.Lock()
		defer n.w.mu.Unlock()
		return deliver(e)
	})
}

func (n network) fanOut(e *api.DeviceEvent) error {
	var m api.FanOut
	if err := json.Unmarshal(e.Content, &m); err != nil {
		return err
	}
	for _, user := range slices.Sorted(maps.Keys(e.Devices)) {
		for _, device := range e.Devices[user] {
			n.w.Got = append(n.w.Got, Delivery{user, device, m})
		}
	}
	return nil
}

func (n network) moveRequest(e *api.DeviceEvent) error {
	var signed api.SignedInfo
	if err := json.Unmarshal(e.Content, &signed); err != nil {
		return err
	}
	m, err := mimiport.UnmarshalMoveRequest(signed.Message)
	if err != nil {
		return err
	}
	n.w.Asked = append(n.w.Asked, Asked{*m, signed.KeyID, e.Devices})
	return nil
}

func (n network) AskIntake(
	ctx context.Context, from, to, roomID string, servers []string,
) (in *api.Intake, err error) {
	err = n.w.extend(Message{from, to, "intake"}, func(d *delivery.Service) (err error) {
		in, err = d.Intake(ctx, from, to, roomID, servers)
		return err
	})
	return in, err
}

func (n network) PutContent(
	ctx context.Context, from, to string, c *api.ContentUpload,
) (vote *api.SignedRequest, err error) {
	err = n.w.exchange(Message{from, to, "content"}, func(d *delivery.Service) (err error) {
		vote, err = d.PutContent(ctx, from, c)
		if err == nil && vote != nil && to == n.w.Draft {
			vote.Vote = nil // the draft has no MigrationVote
			err = n.w.activate(ctx, from, to, c.ID)
		}
		return err
	})
	return vote, err
}

// activate makes a target active right after its vote, as in the draft. For this the World signs a decision for the
// source.
func (w *World) activate(ctx context.Context, from, to string, id mimiport.MigrationID) error {
	st, err := w.Service(to).Migration(ctx, api.Caller{Server: to}, id)
	if err != nil {
		return err
	}
	response, err := mimiport.UnmarshalMigrationResponse(st.MigrationResponse.Message)
	if err != nil {
		return err
	}
	c := &mimiport.MigrationConfirmation{DomainName: to, Nonce: response.Nonce, GroupID: st.GroupID}
	signed := &api.SignedRequest{}
	if signed.KeyID, err = (keys{w, from}).Sign(from, c); err != nil {
		return err
	}
	if signed.Message, err = c.Marshal(); err != nil {
		return err
	}
	_, err = w.Service(to).ConfirmMigration(ctx, api.Caller{Server: from}, id, signed)
	return err
}

func (n network) PutConfirmation(
	ctx context.Context, from, to string, id mimiport.MigrationID, m *api.SignedRequest,
) error {
	return n.w.extend(Message{from, to, "confirmation"}, func(d *delivery.Service) error {
		_, err := d.ConfirmMigration(ctx, api.Caller{Server: from}, id, m)
		return err
	})
}

func (n network) PutAbort(ctx context.Context, from, to string, id mimiport.MigrationID, m *api.SignedRequest) error {
	return n.w.extend(Message{from, to, "abort"}, func(d *delivery.Service) error {
		return d.AbortFromSource(ctx, from, id, m)
	})
}

func (n network) PutLineage(ctx context.Context, from, to string, id []byte, r *api.LineageRequest) error {
	return n.w.exchange(Message{from, to, "lineage"}, func(d *delivery.Service) error {
		_, err := d.ShowLineage(ctx, api.Caller{Server: from}, id, r)
		return err
	})
}

func (n network) AskStatus(
	ctx context.Context, from, to string, id mimiport.MigrationID,
) (st *api.MigrationStatus, err error) {
	err = n.w.extend(Message{from, to, "status"}, func(d *delivery.Service) (err error) {
		st, err = d.Migration(ctx, api.Caller{Server: from}, id)
		return err
	})
	return st, err
}
