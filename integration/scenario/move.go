// Package scenario plays what the project is for on real homeservers with real clients, and checks after each step that all who
// should agree do. The demo shows it; the integration tests run it.
package scenario

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// Play is a story in progress: two homeservers, two clients, one group.
type Play struct {
	Start StartClient
	Print func(line string)

	began      time.Time
	a, b       *harness.Server
	alice, bob *harness.Client
	room       string
	group      string
	messages   int
	checks     int
	moves      int
}

// StartClient starts a client process for a user.
type StartClient func(ctx context.Context, u *harness.User) (*harness.Client, error)

// TypeScript starts the reference client.
func TypeScript(ctx context.Context, u *harness.User) (*harness.Client, error) {
	return harness.StartClient(ctx, u, "")
}

// Move lets a group be created at A, live, move to B, live on, and move back to A. Both servers are on the default policy all
// the while. It returns the first thing that is not as it should be.
func Move(ctx context.Context, n *harness.Network, start StartClient, print func(line string)) error {
	p := &Play{Start: start, Print: print, began: time.Now()}
	defer p.close()
	for _, act := range []func(context.Context, *harness.Network) error{
		p.servers, p.clients, p.create, p.talk, p.refusals, p.moveToB, p.liveAtB, p.traces, p.moveBack,
	} {
		if err := act(ctx, n); err != nil {
			return err
		}
	}
	p.say("done: %d moves, %d messages decrypted by the other side, %d checks that both clients and the Delivery Service agree, %.1f s",
		p.moves, p.messages, p.checks, time.Since(p.began).Seconds())
	return nil
}

func (p *Play) close() {
	for _, c := range []*harness.Client{p.alice, p.bob} {
		if c != nil {
			_ = c.Kill() // it may have ended
		}
	}
}

func (p *Play) say(format string, args ...any) {
	p.Print(fmt.Sprintf("%6.2fs  ", time.Since(p.began).Seconds()) + fmt.Sprintf(format, args...))
}

// where starts a line about the group: its epoch and Delivery Service.
func (p *Play) where(st *harness.GroupState) string {
	return fmt.Sprintf("epoch %-2d at %s: ", st.Epoch, p.label(st.DS))
}

// label calls a server A or B besides its name.
func (p *Play) label(server string) string {
	if server == p.a.Name {
		return "A (" + server + ")"
	}
	return "B (" + server + ")"
}

func (p *Play) servers(ctx context.Context, n *harness.Network) (err error) {
	if p.a, err = n.Start(ctx, harness.Section); err != nil {
		return err
	}
	if p.b, err = n.Start(ctx, harness.Section); err != nil {
		return err
	}
	p.say("two Dendrite homeservers run: A is %s, B is %s", p.a.Name, p.b.Name)
	return nil
}

func (p *Play) clients(ctx context.Context, _ *harness.Network) error {
	alice, err := p.a.Register(ctx, "alice", false)
	if err != nil {
		return err
	}
	bob, err := p.b.Register(ctx, "bob", false)
	if err != nil {
		return err
	}
	if p.room, err = alice.CreateRoom(ctx); err != nil {
		return err
	}
	if err := errors.Join(alice.Invite(ctx, p.room, bob.ID), bob.Join(ctx, p.room, p.a.Name)); err != nil {
		return err
	}
	p.say("%s and %s are in the room %s", alice.ID, bob.ID, p.room)
	if p.alice, err = p.Start(ctx, alice); err != nil {
		return err
	}
	if p.bob, err = p.Start(ctx, bob); err != nil {
		return err
	}
	if err := p.bob.Do(ctx, "publish_key_packages", harness.Args{"n": 5}, nil); err != nil {
		return err
	}
	p.say("alice and bob have an MLS identity each, in a process each; bob has published KeyPackages")
	return nil
}

func (p *Play) create(ctx context.Context, _ *harness.Network) error {
	var st harness.GroupState
	if err := p.alice.Do(ctx, "create_group", harness.Args{"room": p.room}, &st); err != nil {
		return err
	}
	p.group = st.Group
	p.say("%salice has created the group %s… and bound the room to it", p.where(&st), p.group[:8])
	if err := p.alice.Do(ctx, "add", harness.Args{"group": p.group, "user": p.bob.User.ID}, &st); err != nil {
		return err
	}
	if err := p.bob.Do(ctx, "join", harness.Args{"group": p.group}, &st); err != nil {
		return err
	}
	p.say("%salice has added bob, who has joined by Welcome", p.where(&st))
	return p.agree(ctx, p.a.Name, 0)
}

// talk lets both send a message that the other decrypts.
func (p *Play) talk(ctx context.Context, _ *harness.Network) error {
	for _, way := range [][2]*harness.Client{{p.alice, p.bob}, {p.bob, p.alice}} {
		from, to := way[0], way[1]
		text := fmt.Sprintf("message %d from %s", p.messages+1, from.Name)
		args := harness.Args{"group": p.group, "text": text}
		if err := from.Do(ctx, "send", args, nil); err != nil {
			return err
		}
		var got struct {
			Sender string `json:"sender"`
			Text   string `json:"text"`
		}
		if err := to.Do(ctx, "wait_for", harness.Args{"kind": "message", "group": p.group, "text": text}, &got); err != nil {
			return err
		}
		var st harness.GroupState
		if err := to.Do(ctx, "state", harness.Args{"group": p.group}, &st); err != nil {
			return err
		}
		p.messages++
		p.say("%s%s has decrypted %q from %s", p.where(&st), to.Name, got.Text, got.Sender)
	}
	return nil
}

// refusals shows the default policies at work, on both sides.
func (p *Play) refusals(ctx context.Context, _ *harness.Network) error {
	for _, try := range []struct {
		who  *harness.Client
		what string
	}{
		{p.alice, "alice, a user of A, asks B for an offer"},
		{p.bob, "bob, with power level 0, asks A to hand the group over"},
	} {
		err := try.who.Do(ctx, "migrate", harness.Args{"group": p.group, "target": p.b.Name}, nil)
		var refused *harness.Error
		if !errors.As(err, &refused) || refused.Code != "M_FORBIDDEN" {
			return fmt.Errorf("%s, and gets %w instead of a refusal", try.what, err)
		}
		p.say("refused: %s (%s: %s)", try.what, refused.Code, refused.Fields["error"])
	}
	return p.agree(ctx, p.a.Name, 0)
}

func (p *Play) moveToB(ctx context.Context, _ *harness.Network) error {
	if err := p.alice.User.SetPowerLevel(ctx, p.room, p.bob.User.ID, 100); err != nil {
		return err
	}
	p.say("alice has given bob power level 100")
	return p.move(ctx, p.bob, p.b.Name, 1)
}

// move lets one client have the group moved, and waits until both are there.
func (p *Play) move(ctx context.Context, who *harness.Client, target string, term uint64) error {
	args := harness.Args{"group": p.group, "target": target}
	if err := retry(ctx, func() error { return who.Do(ctx, "migrate", args, nil) }); err != nil {
		return err
	}
	for _, c := range []*harness.Client{p.alice, p.bob} {
		var st harness.GroupState
		if err := c.Do(ctx, "wait_for", harness.Args{"kind": "state", "group": p.group, "ds": target, "term": term}, &st); err != nil {
			return err
		}
		p.say("%s%s is there: %s has had the group moved, term %d", p.where(&st), c.Name, who.Name, st.Term)
	}
	p.moves++
	return p.agree(ctx, target, term)
}

// retry tries again while the room's new power levels have not reached the homeserver that is asked.
func retry(ctx context.Context, f func() error) error {
	for {
		err := f()
		var refused *harness.Error
		if !errors.As(err, &refused) || refused.Code != "M_FORBIDDEN" {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (p *Play) liveAtB(ctx context.Context, n *harness.Network) error {
	if err := p.talk(ctx, n); err != nil {
		return err
	}
	var st harness.GroupState
	if err := p.alice.Do(ctx, "update", harness.Args{"group": p.group}, &st); err != nil {
		return err
	}
	if err := p.bob.Do(ctx, "wait_for", harness.Args{"kind": "state", "group": p.group, "epoch": st.Epoch}, nil); err != nil {
		return err
	}
	p.say("%salice has committed new keys through the new Delivery Service", p.where(&st))
	return p.agree(ctx, p.b.Name, 1)
}

// traces shows what the move has left behind: the redirect at A and the pointer in the room.
func (p *Play) traces(ctx context.Context, _ *harness.Network) error {
	var host struct {
		DeliveryService string `json:"delivery_service"`
		Term            uint64 `json:"term"`
	}
	if err := p.alice.Do(ctx, "host", harness.Args{"group": p.group, "ds": p.a.Name}, &host); err != nil {
		return err
	}
	if host.DeliveryService != p.b.Name {
		return fmt.Errorf("the redirect at A names %s", host.DeliveryService)
	}
	p.say("A redirects: the group is at %s since term %d, and here is A's signed word for it", p.label(host.DeliveryService), host.Term)
	var pointer struct {
		Via   string `json:"via"`
		Term  uint64 `json:"term"`
		Epoch uint64 `json:"epoch"`
	}
	err := p.awaitPointer(ctx, p.b.Name, &pointer)
	if err != nil {
		return err
	}
	p.say("the room's state event io.github.mimiport.delivery_service says: via %s, term %d, epoch %d", p.label(pointer.Via), pointer.Term, pointer.Epoch)
	return nil
}

// awaitPointer reads the pointer event at A until it names a server: it has come by federation.
func (p *Play) awaitPointer(ctx context.Context, server string, pointer any) error {
	for {
		var seen struct {
			Via string `json:"via"`
		}
		const eventType = "io.github.mimiport.delivery_service"
		if err := p.alice.User.State(ctx, p.room, eventType, &seen); err != nil {
			return err
		}
		if seen.Via == server {
			return p.alice.User.State(ctx, p.room, eventType, pointer)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the room's pointer still names %s: %w", seen.Via, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *Play) moveBack(ctx context.Context, n *harness.Network) error {
	if err := p.move(ctx, p.alice, p.a.Name, 2); err != nil {
		return err
	}
	if err := p.talk(ctx, n); err != nil {
		return err
	}
	return p.agree(ctx, p.a.Name, 2)
}

// agree checks that both clients are in the same epoch with the same secrets, and that the Delivery Service's idea of the group is
// theirs.
func (p *Play) agree(ctx context.Context, ds string, term uint64) error {
	var alice, bob harness.GroupState
	if err := p.alice.Do(ctx, "state", harness.Args{"group": p.group}, &alice); err != nil {
		return err
	}
	err := p.bob.Do(ctx, "wait_for", harness.Args{"kind": "state", "group": p.group, "epoch": alice.Epoch, "term": alice.Term}, &bob)
	if err != nil {
		return err
	}
	var hosted struct {
		DeliveryService         string `json:"delivery_service"`
		Term                    uint64 `json:"term"`
		Epoch                   uint64 `json:"epoch"`
		TreeHash                string `json:"tree_hash"`
		ConfirmedTranscriptHash string `json:"confirmed_transcript_hash"`
	}
	if err := p.alice.Do(ctx, "ds_info", harness.Args{"group": p.group, "ds": ds}, &hosted); err != nil {
		return err
	}
	tree, err := hexOf(hosted.TreeHash)
	if err != nil {
		return err
	}
	transcript, err := hexOf(hosted.ConfirmedTranscriptHash)
	if err != nil {
		return err
	}
	for _, c := range []struct{ what, one, other string }{
		{"epochs of alice and bob", fmt.Sprint(alice.Epoch), fmt.Sprint(bob.Epoch)},
		{"epoch authenticators of alice and bob", alice.EpochAuthenticator, bob.EpochAuthenticator},
		{"epochs of alice and the Delivery Service", fmt.Sprint(alice.Epoch), fmt.Sprint(hosted.Epoch)},
		{"terms of alice and the Delivery Service", fmt.Sprint(alice.Term, term), fmt.Sprint(hosted.Term, hosted.Term)},
		{"Delivery Services of alice and bob", alice.DS + hosted.DeliveryService, bob.DS + ds},
		{"tree hashes of alice and the Delivery Service", alice.TreeHash, tree},
		{"transcript hashes of alice and the Delivery Service", alice.ConfirmedTranscriptHash, transcript},
	} {
		if c.one != c.other || c.one == "" {
			return fmt.Errorf("the %s differ: %s, %s", c.what, c.one, c.other)
		}
	}
	p.checks++
	p.say("%sagreed: epoch authenticator %s…, tree hash %s…, transcript hash %s…",
		p.where(&alice), alice.EpochAuthenticator[:8], alice.TreeHash[:8], alice.ConfirmedTranscriptHash[:8])
	return nil
}

// hexOf is unpadded base64, as the HTTP API has it, in hexadecimal, as the client has it.
func hexOf(s string) (string, error) {
	b, err := base64.RawStdEncoding.DecodeString(s)
	return hex.EncodeToString(b), err
}
