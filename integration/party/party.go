// Package party makes a group of clients on real homeservers, lets them talk and move it, and checks that all who
// should agree do. The tests and the demo's story use it.
package party

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// Party is a group, and the clients of its members.
type Party struct {
	Room    string
	Group   string            // its id in base64url
	Members []*harness.Client // the first has created the group

	said int
}

// Create has a client create a group for a room, with no other member.
func Create(ctx context.Context, creator *harness.Client, room string) (*Party, error) {
	var st harness.GroupState
	if err := creator.Do(ctx, "create_group", harness.Args{"room": room}, &st); err != nil {
		return nil, err
	}
	return &Party{Room: room, Group: st.Group, Members: []*harness.Client{creator}}, nil
}

// Add has the creator add a client whose user is in the room.
func (p *Party) Add(ctx context.Context, c *harness.Client) error {
	if err := c.Do(ctx, "publish_key_packages", nil, nil); err != nil {
		return err
	}
	if err := p.Members[0].Do(ctx, "add", harness.Args{"user": c.User.ID}, nil); err != nil {
		return err
	}
	if err := c.Do(ctx, "join", nil, nil); err != nil {
		return err
	}
	p.Members = append(p.Members, c)
	return nil
}

// Say has a member send a message, which it returns, and all others decrypt it.
func (p *Party) Say(ctx context.Context, from *harness.Client) (text string, err error) {
	p.said++
	text = fmt.Sprintf("message %d from %s", p.said, from.Name)
	return text, p.SayText(ctx, from, text)
}

// SayText has a member send a text, and all others decrypt it.
func (p *Party) SayText(ctx context.Context, from *harness.Client, text string) error {
	if err := from.Do(ctx, "send", harness.Args{"text": text}, nil); err != nil {
		return err
	}
	for _, to := range p.Members {
		if to == from {
			continue
		}
		var got struct {
			Sender string `json:"sender"`
		}
		if err := to.Do(ctx, "wait_for", harness.Args{"kind": "message", "text": text}, &got); err != nil {
			return err
		}
		if got.Sender != from.User.ID {
			return fmt.Errorf("%s takes %q for a message from %s", to.Name, text, got.Sender)
		}
	}
	return nil
}

// Outcome is how a migration ended for the client that began it.
type Outcome struct {
	State  string `json:"state"` // moved, aborted, overtaken; empty where that is not known
	Reason string `json:"reason"`
}

// Moved is the State of an Outcome where the group is at the target.
const Moved = "moved"

// Migrate has a member move the group to a server, and returns how that ended. When that fails but the group has come
// there, there is an outcome besides the error.
func Migrate(ctx context.Context, mover *harness.Client, target string) (out Outcome, err error) {
	if err = mover.Do(ctx, "migrate", harness.Args{"target": target}, &out); err == nil {
		return out, nil
	}
	if st, failed := mover.State(ctx); failed == nil && st.DS == target {
		out.State = Moved
	}
	return out, err
}

// Settle waits until all members have come as far as each other. It returns where that is, if they and the Delivery
// Service agree on it.
func (p *Party) Settle(ctx context.Context) (at harness.GroupState, err error) {
	if at, err = p.Members[0].State(ctx); err != nil {
		return at, err
	}
	states := make([]harness.GroupState, len(p.Members))
	for range 2 { // the last one may be ahead of all others
		for i, c := range p.Members {
			args := harness.Args{"kind": "state", "epoch": at.Epoch, "term": at.Term}
			if err := c.Do(ctx, "wait_for", args, &states[i]); err != nil {
				return at, err
			}
			at = states[i]
		}
	}
	return at, Agree(ctx, p.Members[0], states...)
}

// Agree checks that members, who say where they are, and the Delivery Service, which asker asks, have the same group.
// The first member must show an epoch authenticator. Another one's library may keep it to itself.
func Agree(ctx context.Context, asker *harness.Client, members ...harness.GroupState) error {
	a := members[0]
	for _, b := range members[1:] {
		shown := b.EpochAuthenticator != ""
		if shown && a.EpochAuthenticator != b.EpochAuthenticator || a.DS != b.DS || a.Term != b.Term || a.Epoch != b.Epoch {
			return fmt.Errorf("the members differ:\n%+v\n%+v", a, b)
		}
	}
	var ds api.GroupResponse
	if err := asker.Do(ctx, "ds_info", harness.Args{"ds": a.DS}, &ds); err != nil {
		return err
	}
	hosted := harness.GroupState{
		Group:                   ds.GroupID.String(),
		Room:                    ds.RoomID,
		DS:                      ds.DeliveryService,
		Term:                    ds.Term,
		Epoch:                   ds.Epoch,
		EpochAuthenticator:      a.EpochAuthenticator, // which is secret
		TreeHash:                hex.EncodeToString(ds.TreeHash),
		ConfirmedTranscriptHash: hex.EncodeToString(ds.ConfirmedTranscriptHash),
		Members:                 a.Members,
	}
	if a.EpochAuthenticator == "" || ds.Members != len(a.Members) || fmt.Sprint(a) != fmt.Sprint(hosted) {
		return fmt.Errorf("the members and %s differ:\n%+v\n%+v", a.DS, a, hosted)
	}
	return nil
}
