// Package scenario plays the life of a group on real homeservers with real clients. After each step it checks that the
// members and the Delivery Service agree. The demo shows these plays, and the integration tests run them.
package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// Play is a running play, with two homeservers, two clients and one group.
type Play struct {
	Start StartClient
	Print func(line ...any)

	*party.Party // set by create

	began      time.Time
	a, b       *harness.Server
	alice, bob *harness.Client
	room       string
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

// Move plays a group that is created at A, moves to B, is used there, and moves back to A. Both servers have the
// default policy. The error is the first check that fails.
func Move(ctx context.Context, n *harness.Network, start StartClient, print func(line ...any)) error {
	p := &Play{Start: start, Print: print, began: time.Now()}
	defer p.close()
	for _, act := range []func(context.Context, *harness.Network) error{
		p.servers, p.clients, p.create, p.talk, p.refusals, p.moveToB, p.liveAtB, p.traces, p.moveBack,
	} {
		if err := act(ctx, n); err != nil {
			return err
		}
	}
	p.report("done: %d moves, %d messages decrypted by the other side, "+
		"%d checks that both clients and the Delivery Service agree, %.1f s",
		p.moves, p.messages, p.checks, time.Since(p.began).Seconds())
	return nil
}

func (p *Play) close() {
	for _, c := range []*harness.Client{p.alice, p.bob} {
		if c != nil {
			_ = c.Kill() // the client may have ended
		}
	}
}

func (p *Play) report(format string, args ...any) {
	p.Print(fmt.Sprintf("%6.2fs  ", time.Since(p.began).Seconds()) + fmt.Sprintf(format, args...))
}

// where returns the start of a line about the group, with its epoch and Delivery Service.
func (p *Play) where(st *harness.GroupState) string {
	return fmt.Sprintf("epoch %-2d at %s: ", st.Epoch, p.label(st.DS))
}

// label returns a server's name with its letter, A or B.
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
	p.report("two Dendrite homeservers run: A is %s, B is %s", p.a.Name, p.b.Name)
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
	if err := alice.Admit(ctx, p.room, bob); err != nil {
		return err
	}
	p.report("%s and %s are in the room %s", alice.ID, bob.ID, p.room)
	if p.alice, err = p.Start(ctx, alice); err != nil {
		return err
	}
	if p.bob, err = p.Start(ctx, bob); err != nil {
		return err
	}
	p.report("alice and bob each have an MLS identity, in a process of their own")
	return nil
}

func (p *Play) create(ctx context.Context, _ *harness.Network) (err error) {
	if p.Party, err = party.Create(ctx, p.alice, p.room); err != nil {
		return err
	}
	st, err := p.alice.State(ctx)
	if err != nil {
		return err
	}
	p.report("%salice has created the group %s… and bound the room to it", p.where(&st), p.Group[:8])
	if err := p.Add(ctx, p.bob); err != nil {
		return err
	}
	if st, err = p.bob.State(ctx); err != nil {
		return err
	}
	p.report("%sbob has published a KeyPackage, alice has added bob, and bob has joined by Welcome", p.where(&st))
	return p.agree(ctx, p.a.Name, 0)
}

// talk lets each client send a message, and waits until the other has decrypted it.
func (p *Play) talk(ctx context.Context, _ *harness.Network) error {
	for _, way := range [][2]*harness.Client{{p.alice, p.bob}, {p.bob, p.alice}} {
		from, to := way[0], way[1]
		text, err := p.Say(ctx, from)
		if err != nil {
			return err
		}
		st, err := to.State(ctx)
		if err != nil {
			return err
		}
		p.messages++
		p.report("%s%s has decrypted %q from %s", p.where(&st), to.Name, text, from.User.ID)
	}
	return nil
}

// forbidden is the error code of a refusal by a policy.
const forbidden = "M_FORBIDDEN"

// refusals shows that the default policies of A and B refuse a move.
func (p *Play) refusals(ctx context.Context, _ *harness.Network) error {
	for _, try := range []struct {
		who  *harness.Client
		what string
	}{
		{p.alice, "alice, a user of A, asks B for an offer"},
		{p.bob, "bob, with power level 0, asks A to hand the group over"},
	} {
		err := try.who.Do(ctx, "migrate", harness.Args{"target": p.b.Name}, nil)
		var refused *harness.Error
		if !errors.As(err, &refused) || refused.Code != forbidden {
			return fmt.Errorf("%s: the error is not a refusal: %w", try.what, err)
		}
		p.report("refused: %s (%s: %s)", try.what, refused.Code, refused.Fields["error"])
	}
	return p.agree(ctx, p.a.Name, 0)
}

func (p *Play) moveToB(ctx context.Context, _ *harness.Network) error {
	if err := p.alice.User.SetPowerLevel(ctx, p.room, p.bob.User.ID, 100); err != nil {
		return err
	}
	p.report("alice has given bob power level 100")
	return p.move(ctx, p.bob, p.b.Name, 1)
}

// move lets one client move the group, and waits until both clients have followed.
func (p *Play) move(ctx context.Context, who *harness.Client, target string, term uint64) error {
	if err := migrate(ctx, who, target); err != nil {
		return err
	}
	for _, c := range []*harness.Client{p.alice, p.bob} {
		var st harness.GroupState
		if err := c.Do(ctx, "wait_for", harness.Args{"kind": "state", "ds": target, "term": term}, &st); err != nil {
			return err
		}
		p.report("%s%s has followed: %s has moved the group, term %d", p.where(&st), c.Name, who.Name, st.Term)
	}
	p.moves++
	return p.agree(ctx, target, term)
}

// migrate tries again after M_FORBIDDEN, as the room's new power levels may not have reached the other homeserver.
func migrate(ctx context.Context, who *harness.Client, target string) error {
	for {
		_, err := party.Migrate(ctx, who, target)
		if harness.CodeOf(err) != forbidden || ctx.Err() != nil {
			return err
		}
		harness.Wait(ctx, 200*time.Millisecond) // each attempt uses an offer
	}
}

func (p *Play) liveAtB(ctx context.Context, n *harness.Network) error {
	if err := p.talk(ctx, n); err != nil {
		return err
	}
	var st harness.GroupState
	if err := p.alice.Do(ctx, "update", nil, &st); err != nil {
		return err
	}
	if err := p.bob.Do(ctx, "wait_for", harness.Args{"kind": "state", "epoch": st.Epoch}, nil); err != nil {
		return err
	}
	p.report("%salice has committed new keys through the new Delivery Service", p.where(&st))
	return p.agree(ctx, p.b.Name, 1)
}

// traces shows the redirect at A and the pointer in the room after the move.
func (p *Play) traces(ctx context.Context, _ *harness.Network) error {
	var host struct {
		DeliveryService string `json:"delivery_service"`
		Term            uint64 `json:"term"`
	}
	if err := p.alice.Do(ctx, "host", harness.Args{"ds": p.a.Name}, &host); err != nil {
		return err
	}
	if host.DeliveryService != p.b.Name {
		return fmt.Errorf("the redirect at A names %s", host.DeliveryService)
	}
	p.report("A redirects: the group is at %s since term %d, and A has signed this",
		p.label(host.DeliveryService), host.Term)
	pointer, err := p.alice.User.AwaitPointer(ctx, p.room, p.b.Name, host.Term) // the event comes by federation
	if err != nil {
		return err
	}
	p.report("the room's state event %s says: via %s, term %d, epoch %d",
		api.EventPointer, p.label(pointer.Via), pointer.Term, pointer.Epoch)
	return nil
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

// agree checks that all members and the Delivery Service have the same group, at this server in this term.
func (p *Play) agree(ctx context.Context, ds string, term uint64) error {
	at, err := p.Settle(ctx)
	if err != nil {
		return err
	}
	if at.DS != ds || at.Term != term {
		return fmt.Errorf("the group is at %s in term %d, not at %s in term %d", at.DS, at.Term, ds, term)
	}
	p.checks++
	p.report("%sagreed: epoch authenticator %s…, tree hash %s…, transcript hash %s…",
		p.where(&at), at.EpochAuthenticator[:8], at.TreeHash[:8], at.ConfirmedTranscriptHash[:8])
	return nil
}
