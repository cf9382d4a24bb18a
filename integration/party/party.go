// Package party makes a group of clients on real homeservers. The members send messages and move the group. The package
// checks that the members and the Delivery Service agree. The tests and the demo use it.
package party

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// Party is a group with the clients of its members.
type Party struct {
	Room    string
	Group   string            // the group's id in base64url
	Members []*harness.Client // the first has created the group

	said int
}

// Create creates a group for a room, with creator as the only member.
func Create(ctx context.Context, creator *harness.Client, room string) (*Party, error) {
	var st harness.GroupState
	if err := creator.Do(ctx, "create_group", harness.Args{"room": room}, &st); err != nil {
		return nil, err
	}
	return &Party{Room: room, Group: st.Group, Members: []*harness.Client{creator}}, nil
}

// Add lets the creator add a client to the group. The client's user must be in the room.
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

// Say sends a new message as a member, and waits until all others have decrypted it. It returns the message.
func (p *Party) Say(ctx context.Context, from *harness.Client) (text string, err error) {
	p.said++
	text = fmt.Sprintf("message %d from %s", p.said, from.Name)
	return text, p.SayText(ctx, from, text)
}

// SayText sends a text as a member, and waits until all others have decrypted it.
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
			return fmt.Errorf("%s sees %q as a message from %s", to.Name, text, got.Sender)
		}
	}
	return nil
}

// Outcome is the outcome of a migration, as the client that began it sees it.
type Outcome struct {
	State  string `json:"state"` // moved, aborted or overtaken; empty if unknown
	Reason string `json:"reason"`
}

// Moved is the State of an Outcome when the group is at the target.
const Moved = "moved"

// Migrate moves the group to a server, as a member. If the command fails but the group is at the target, Migrate
// returns the error together with the outcome Moved.
func Migrate(ctx context.Context, mover *harness.Client, target string) (out Outcome, err error) {
	if err = mover.Do(ctx, "migrate", harness.Args{"target": target}, &out); err == nil {
		return out, nil
	}
	if st, failed := mover.State(ctx); failed == nil && st.DS == target {
		out.State = Moved
	}
	return out, err
}

// Settle waits until all members are in the same epoch and term. It returns their state. The error says when the
// members and the Delivery Service do not agree on it.
func (p *Party) Settle(ctx context.Context) (at harness.GroupState, err error) {
	if at, err = p.Members[0].State(ctx); err != nil {
		return at, err
	}
	states := make([]harness.GroupState, len(p.Members))
	for range 2 { // the last member may be ahead of the others
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

// Agree checks that the members' states are equal, and that the Delivery Service has the same state. asker asks the
// Delivery Service. The first member's state must have an epoch authenticator. Other members' libraries may not export
// it.
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
		EpochAuthenticator:      a.EpochAuthenticator, // secret: the Delivery Service does not know it
		TreeHash:                hex.EncodeToString(ds.TreeHash),
		ConfirmedTranscriptHash: hex.EncodeToString(ds.ConfirmedTranscriptHash),
		Members:                 a.Members,
	}
	if a.EpochAuthenticator == "" || ds.Members != len(a.Members) || fmt.Sprint(a) != fmt.Sprint(hosted) {
		return fmt.Errorf("the members and %s differ:\n%+v\n%+v", a.DS, a, hosted)
	}
	return nil
}
