package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
)

// life is a running play of Life.
type life struct {
	*Play
	network *harness.Network
	stock   []*harness.Server
	version string            // the room version
	guests  []*harness.Client // one member on each server of stock
	erin    *harness.Client   // a member from time to time, with power level 0
	admins  [2]*harness.User  // at A and B
	host    *harness.Server   // the group's host
	term    uint64
}

// Life plays the whole life of a group. A and B are new homeservers with the module. The homeservers stock run already
// and lack the module. The members are alice at A and one user on each server of stock. The first of these users makes
// the room, of this room version, and the group. The error is the first check that fails.
func Life(ctx context.Context, n *harness.Network, stock []*harness.Server, version string, print func(...any)) error {
	l := &life{
		Play: &Play{Start: TypeScript, Print: print, began: time.Now()}, network: n, stock: stock, version: version,
	}
	defer l.close()
	err := inOrder(ctx, l.open, l.gather, l.create, l.everybody, l.sayMuch, l.addAndRemove, l.moves, l.away, l.leave,
		l.kick, l.lose, l.everybody, l.unharmed)
	if err != nil {
		return err
	}
	l.report("done: %d moves, %d messages decrypted by all others, %d checks that all members and the Delivery Service "+
		"agree, %.1f s", l.Play.moves, l.messages, l.checks, time.Since(l.began).Seconds())
	return nil
}

// step is one step of the play.
type step func(context.Context) error

// inOrder runs steps until one fails.
func inOrder(ctx context.Context, steps ...step) error {
	for _, s := range steps {
		if err := s(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (l *life) close() {
	for _, c := range append(l.guests, l.alice, l.erin) {
		if c != nil {
			_ = c.Kill() // the client may have ended
		}
	}
}

// open starts A and B. Their policies let users of other homeservers create groups there and move groups to them.
func (l *life) open(ctx context.Context) (err error) {
	if err := l.servers(ctx, l.network); err != nil {
		return err
	}
	creators := []string{l.a.Name, l.b.Name}
	for _, s := range l.stock {
		creators = append(creators, s.Name)
	}
	policy := map[string]any{"target": "joined_servers", "creators": creators, "recover": true, "accept_claims": true}
	for i, s := range []*harness.Server{l.a, l.b} {
		if l.admins[i], err = s.Register(ctx, "operator", true); err != nil {
			return err
		}
		if err := l.admins[i].Do(ctx, http.MethodPut, adminapi.PathPrefix+"/policy", policy, nil); err != nil {
			return err
		}
	}
	for _, s := range l.stock {
		what, err := l.software(ctx, s)
		if err != nil {
			return err
		}
		l.report("%s is a stock %s", s.Name, what)
	}
	return nil
}

// software returns the name and version that a homeserver reports.
func (l *life) software(ctx context.Context, s *harness.Server) (string, error) {
	client := l.network.Client()
	defer client.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.Name+"/_matrix/federation/v1/version", nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		Server struct{ Name, Version string }
	}
	err = json.NewDecoder(resp.Body).Decode(&answer)
	return answer.Server.Name + " " + answer.Server.Version, err
}

// gather makes the room and the clients.
func (l *life) gather(ctx context.Context) error {
	names := []string{"carol", "dave"}
	var users []*harness.User
	for i, s := range l.stock {
		u, err := s.Register(ctx, names[i], false)
		if err != nil {
			return err
		}
		users = append(users, u)
	}
	alice, err := l.a.Register(ctx, "alice", false)
	if err != nil {
		return err
	}
	maker := users[0]
	if l.room, err = maker.CreateRoomOf(ctx, l.version); err != nil {
		return err
	}
	for _, u := range append(users[1:], alice, l.admins[1]) { // the operator joins, so that B is in the room
		if err := l.admit(maker, u)(ctx); err != nil {
			return err
		}
	}
	l.report("%s has made the room %s of version %s", maker.ID, l.room, l.version)
	for _, u := range users {
		guest, err := l.Start(ctx, u)
		if err != nil {
			return err
		}
		l.guests = append(l.guests, guest)
	}
	if l.alice, err = l.Start(ctx, alice); err != nil {
		return err
	}
	erin, err := l.a.Register(ctx, "erin", false)
	if err != nil {
		return err
	}
	if err := alice.Admit(ctx, l.room, erin); err != nil {
		return err
	}
	l.erin, err = l.Start(ctx, erin)
	return err
}

// admit lets a user join the room, with power level 100.
func (l *life) admit(by, u *harness.User) step {
	return func(ctx context.Context) error {
		if err := by.Admit(ctx, l.room, u); err != nil {
			return err
		}
		return by.SetPowerLevel(ctx, l.room, u.ID, 100)
	}
}

// create lets the first guest create the group at A and add all others.
func (l *life) create(ctx context.Context) error {
	creator := l.guests[0]
	var st harness.GroupState
	if err := creator.Do(ctx, "create_group", harness.Args{"room": l.room, "ds": l.a.Name}, &st); err != nil {
		return err
	}
	l.Party = &party.Party{Room: l.room, Group: st.Group, Members: []*harness.Client{creator}}
	l.host = l.a
	l.report("%s%s has created the group %s…", l.where(&st), creator.Name, l.Group[:8])
	for _, c := range append(l.guests[1:], l.alice) {
		if err := l.add(creator, c)(ctx); err != nil {
			return err
		}
	}
	return nil
}

// tell gives a client a command.
func tell(c *harness.Client, command string, args harness.Args) step {
	return func(ctx context.Context) error { return c.Do(ctx, command, args, nil) }
}

// agreed checks that all members and the Delivery Service have the same group, at the expected host in the expected
// term, and that the group has no other members.
func (l *life) agreed(ctx context.Context) error {
	if err := l.agree(ctx, l.host.Name, l.term); err != nil {
		return err
	}
	st, err := l.Members[0].State(ctx)
	if err == nil && len(st.Members) != len(l.Members) {
		err = fmt.Errorf("the group has %d members, not %d", len(st.Members), len(l.Members))
	}
	return err
}

// enters adds a client to the list of members, and reports how it joined.
func (l *life) enters(c *harness.Client, way string) step {
	return func(ctx context.Context) error {
		l.Members = append(l.Members, c)
		l.report("%s has %s", c.Name, way)
		return l.agreed(ctx)
	}
}

// leaves waits until a client has read the Commit that removed it, and reports why it was removed.
func (l *life) leaves(c *harness.Client, why string) step {
	return func(ctx context.Context) error {
		l.Members = slices.DeleteFunc(l.Members, func(m *harness.Client) bool { return m == c })
		if err := c.Do(ctx, "wait_for", harness.Args{"kind": "removed"}, nil); err != nil {
			return err
		}
		l.report("%s %s, and has read the Commit that removes the leaf", c.Name, why)
		return l.agreed(ctx)
	}
}

// add lets a member add a client.
func (l *life) add(by, c *harness.Client) step {
	return func(ctx context.Context) error {
		return inOrder(ctx,
			tell(c, "publish_key_packages", nil), tell(by, "add", harness.Args{"user": c.User.ID}),
			tell(c, "join", nil), l.enters(c, "joined by the Welcome of "+by.Name))
	}
}

// say lets a member send a message, and waits until all others have decrypted it.
func (l *life) say(from *harness.Client) step {
	return func(ctx context.Context) error {
		text, err := l.Say(ctx, from)
		if err != nil {
			return err
		}
		l.messages++
		l.report("all others have decrypted %q", text)
		return nil
	}
}

// commit lets a member commit all pending proposals, with new keys.
func (l *life) commit(by *harness.Client) step {
	return func(ctx context.Context) error {
		l.report("%s commits", by.Name)
		return by.Do(ctx, "update", nil, nil)
	}
}

// moveTo lets a member move the group to a server.
func (l *life) moveTo(target *harness.Server, mover *harness.Client) step {
	return func(ctx context.Context) error {
		if err := migrate(ctx, mover, target.Name); err != nil {
			return err
		}
		l.host, l.term = target, l.term+1
		l.Play.moves++
		l.report("%s has moved the group to %s", mover.Name, l.label(target.Name))
		return nil
	}
}

// everybody lets each member send a message and commit.
func (l *life) everybody(ctx context.Context) error {
	for _, c := range l.Members {
		if err := inOrder(ctx, l.say(c), l.commit(c), l.agreed); err != nil {
			return err
		}
	}
	return nil
}

// sayMuch lets alice send a message that is too large for an event. The guests read it by direct requests.
func (l *life) sayMuch(ctx context.Context) error {
	const size = 40 << 10
	if err := l.SayText(ctx, l.alice, strings.Repeat("m", size)); err != nil {
		return err
	}
	l.messages++
	l.report("all others have decrypted a message of %d KiB, which is too large for an event", size>>10)
	return nil
}

// addAndRemove lets each guest add erin and remove her.
func (l *life) addAndRemove(ctx context.Context) error {
	for _, guest := range l.guests {
		err := inOrder(ctx, l.add(guest, l.erin),
			tell(guest, "remove", harness.Args{"user": l.erin.User.ID}), l.leaves(l.erin, "was removed by "+guest.Name))
		if err != nil {
			return err
		}
	}
	return nil
}

// moves lets each member move the group to B and back.
func (l *life) moves(ctx context.Context) error {
	for _, c := range l.Members {
		err := inOrder(ctx, l.moveTo(l.b, c), l.agreed, l.say(c), l.moveTo(l.a, c), l.agreed, l.say(c))
		if err != nil {
			return err
		}
	}
	return nil
}

// away moves the group and commits while a guest's homeserver is down.
func (l *life) away(ctx context.Context) error {
	for i, target := range []*harness.Server{l.b, l.a}[:len(l.stock)] {
		s := l.stock[i]
		if err := s.Stop(); err != nil {
			return err
		}
		l.report("%s is down", s.Name)
		if err := inOrder(ctx, l.moveTo(target, l.alice), l.commit(l.alice), s.Start); err != nil {
			return err
		}
		l.report("%s is up again", s.Name)
		if err := inOrder(ctx, l.agreed, l.say(l.guests[i])); err != nil {
			return err
		}
	}
	return nil
}

// leave lets each guest leave the group and rejoin by an external Commit.
func (l *life) leave(ctx context.Context) error {
	for _, guest := range l.guests {
		if err := inOrder(ctx, tell(guest, "leave", nil), l.removed(guest, "has left"), l.rejoin(guest)); err != nil {
			return err
		}
	}
	return nil
}

// removed lets alice commit the pending removal of a guest.
func (l *life) removed(guest *harness.Client, why string) step {
	return func(ctx context.Context) error {
		pending := harness.Args{"kind": "state", "pending_proposals": 1}
		return inOrder(ctx, tell(l.alice, "wait_for", pending), l.commit(l.alice), l.leaves(guest, why))
	}
}

// rejoin lets a guest, who is in the room, rejoin the group by an external Commit.
func (l *life) rejoin(guest *harness.Client) step {
	return func(ctx context.Context) error {
		return inOrder(ctx, tell(guest, "rejoin", harness.Args{"room": l.room}),
			l.enters(guest, "rejoined by an external Commit"))
	}
}

// kick lets alice kick each guest from the room. The guest then joins the room and the group again.
func (l *life) kick(ctx context.Context) error {
	for _, guest := range l.guests {
		err := inOrder(ctx, l.expel(guest.User), l.removed(guest, "was kicked from the room"), l.awaitKicked(guest.User),
			l.admit(l.alice.User, guest.User), l.rejoin(guest))
		if err != nil {
			return err
		}
	}
	return nil
}

// expel lets a user give up power in the room, and then lets alice kick the user. The user's homeserver must know the
// last pointer first: of a room with two state events beside each other, Dendrite may lose the power levels. A
// homeserver that was down may hear of the pointer seconds later.
func (l *life) expel(u *harness.User) step {
	return func(ctx context.Context) error {
		if _, err := u.AwaitPointer(ctx, l.room, l.host.Name, l.term); err != nil {
			return err
		}
		if err := u.SetPowerLevel(ctx, l.room, u.ID, 0); err != nil {
			return err
		}
		return harness.Poll(ctx, func(ctx context.Context) error { // until A knows the new power level
			return l.alice.User.Kick(ctx, l.room, u.ID)
		})
	}
}

// awaitKicked waits until a user's homeserver knows of the kick. Until then, it would ignore a new join of the user.
func (l *life) awaitKicked(u *harness.User) step {
	kicked := func(ctx context.Context) error {
		var joined struct {
			Rooms []string `json:"joined_rooms"`
		}
		err := u.Do(ctx, http.MethodGet, "/_matrix/client/v3/joined_rooms", nil, &joined)
		if err == nil && slices.Contains(joined.Rooms, l.room) {
			err = fmt.Errorf("the homeserver of %s does not know of the kick yet", u.ID)
		}
		return err
	}
	return func(ctx context.Context) error { return harness.Poll(ctx, kicked) }
}

// lose moves the group to B, and kills B. A's operator recovers the group from a guest's copy.
func (l *life) lose(ctx context.Context) error {
	if err := inOrder(ctx, l.moveTo(l.b, l.guests[len(l.guests)-1]), l.agreed); err != nil {
		return err
	}
	if err := l.guests[0].Do(ctx, "sync", nil, nil); err != nil { // the guest needs the lineage from B
		return err
	}
	held := adminapi.RecoverRequest{HostIsLost: true}
	if err := errors.Join(l.b.Kill(), l.guests[0].Do(ctx, "export", nil, &held)); err != nil {
		return err
	}
	route := adminapi.PathPrefix + "/groups/" + l.Group + "/recover"
	if err := l.admins[0].Do(ctx, http.MethodPost, route, held, nil); err != nil {
		return err
	}
	l.host, l.term = l.a, l.term+1
	l.report("B is lost, and A's operator has recovered the group from the copy of %s", l.guests[0].Name)
	for _, c := range l.Members {
		if err := c.Do(ctx, "follow", harness.Args{"ds": l.a.Name}, nil); err != nil {
			return err
		}
		l.report("%s has followed to A", c.Name)
	}
	return l.agreed(ctx)
}

// unharmed checks that no client has seen a misattributed message, an unverified leaf or a fork.
func (l *life) unharmed(ctx context.Context) error {
	for _, c := range append(l.Members, l.erin) {
		var found []map[string]any
		kinds := []string{"misattributed", "unverified", "fork"}
		if err := c.Do(ctx, "take", harness.Args{"kinds": kinds}, &found); err != nil {
			return err
		}
		if len(found) != 0 {
			return fmt.Errorf("%s has found %v", c.Name, found)
		}
	}
	return nil
}
