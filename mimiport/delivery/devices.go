package delivery

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// This file checks that leaves have the keys that their devices publish (profile, section 7). This server asks
// homeservers while no request holds the group.

// findings are the answers of homeservers about leaves.
type findings map[LeafKey]Finding

// unasked is an error: this server must ask homeservers about leaves before it can judge a request.
type unasked struct {
	from   string // the local server that asks
	leaves []LeafKey
}

func (*unasked) Error() string { return "homeservers have not been asked about leaves" }

// known is what this server knows by questions that it asked before it held a group.
type known struct {
	roomID string
	room   Room     // the facts about the group's room
	leaves findings // the homeservers' answers about leaves
	final  bool     // this server does not ask again
}

// errNews is an error: the room has changed since this server asked for the facts about it.
var errNews = errors.New("the room has changed meanwhile")

// of returns the facts about the room of a group, which this server holds now.
func (k *known) of(g *storage.Group) (Room, error) {
	if g.RoomID != k.roomID {
		return nil, errNews
	}
	return k.room, nil
}

// requireCurrent fails if the host has told of a change of the room since this server asked. A decision calls it just
// before it is stored. The last time that this server asks, requireCurrent never fails: everything that the host
// accepted before the request counts anyway, and nobody can delay a decision by changing the room again and again.
func (k *known) requireCurrent() error {
	if k.final || k.room.Current() {
		return nil
	}
	return errNews
}

// withKnown asks the host about a group's room, and calls f while it holds the group. When f returns errNews or an
// unasked error, withKnown asks the host or the homeservers without holding the group, and calls f again with their
// answers.
func (s *core) withKnown(
	ctx context.Context, id []byte, roomID string, f func(*registry.Held, *known) error,
) error {
	const rounds = 3 // the group may have changed meanwhile
	k := &known{roomID: roomID, leaves: make(findings)}
	for round := range rounds {
		var err error
		if k.room, err = s.Rooms.Room(ctx, roomID); err != nil {
			return err
		}
		k.final = round == rounds-1
		err = s.groups.With(ctx, id, func(h *registry.Held) error { return f(h, k) })
		open, ok := errors.AsType[*unasked](err)
		if !ok && !errors.Is(err, errNews) {
			return err
		}
		if ok {
			if err := s.answer(ctx, open, k.leaves); err != nil {
				return err
			}
		}
	}
	return mimiport.Errorf("decide", mimiport.KindConflict, "the group goes on faster than homeservers answer")
}

// answer asks the homeservers about leaves, and adds their answers.
func (s *core) answer(ctx context.Context, open *unasked, known findings) error {
	said, failed := s.look(ctx, open.from, open.leaves)
	if len(failed) > 0 {
		return failed[names(failed)[0]]
	}
	maps.Copy(known, said)
	return nil
}

// For one request this server asks at most askedAtOnce homeservers at a time. All of them together have askTime to
// answer.
const (
	askedAtOnce = 8
	askTime     = 20 * time.Second
)

// look asks the homeservers of the leaves' users. It returns the answers, and the errors by homeserver.
func (s *core) look(ctx context.Context, from string, leaves []LeafKey) (findings, map[string]error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	byServer := make(map[string][]LeafKey)
	for _, l := range leaves {
		server := registry.ServerOf(l.UserID)
		byServer[server] = append(byServer[server], l)
	}
	var mu sync.Mutex
	said, failed := make(findings), make(map[string]error)
	var work errgroup.Group
	work.SetLimit(askedAtOnce)
	for server, leaves := range byServer {
		work.Go(func() error {
			found, err := s.Devices.Look(ctx, from, server, leaves)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed[server] = err
				return nil
			}
			for i, l := range leaves {
				said[l] = found[i]
			}
			return nil
		})
	}
	_ = work.Wait() // failed has the error of each server
	return said, failed
}

// names lists the failed servers, sorted.
func names(failed map[string]error) []string {
	return append([]string{}, slices.Sorted(maps.Keys(failed))...)
}

// leafKey names the device and the key of a member of a group.
func leafKey(g mls.Group, m mls.Member) (LeafKey, error) {
	id, err := registry.Identity(m)
	if err != nil {
		return LeafKey{}, err
	}
	scheme, err := mls.SignatureScheme(g)
	return LeafKey{UserID: id.UserID, DeviceID: id.DeviceID, Scheme: scheme, Key: string(m.SignatureKey)}, err
}

// incomer is a leaf with a key that its device did not have in the group before.
type incomer struct {
	mls.Member
	own bool // the leaf's own user brings the leaf in
}

// requireDeviceKeys fails for a leaf whose key differs from the key that its device publishes. The policy decides about
// a device that publishes no key. If no homeserver has answered about a leaf yet, it returns an *unasked error.
func (s *core) requireDeviceKeys(
	ctx context.Context, g *storage.Group, state mls.Group, in []incomer, known findings,
) error {
	if len(in) == 0 {
		return nil
	}
	p, err := s.Policy(ctx)
	if err != nil {
		return err
	}
	open := &unasked{from: g.Server}
	for i := range in {
		leaf, err := leafKey(state, in[i].Member)
		if err != nil {
			return err
		}
		found, asked := known[leaf]
		switch {
		case !asked:
			open.leaves = append(open.leaves, leaf)
		case found == KeyPublished, found != KeyOther && in[i].own && p.MayBeKeyless(leaf.UserID):
		case found == KeyOther:
			return broken(ruleDeviceKey, "device %s of %s publishes another key", leaf.DeviceID, leaf.UserID)
		default:
			return broken(ruleDeviceKey, "device %s of %s publishes no key for %s", leaf.DeviceID, leaf.UserID, leaf.Scheme)
		}
	}
	if len(open.leaves) > 0 {
		return open
	}
	return nil
}

// founders returns the leaves of a group that a user binds.
func founders(c api.Caller, state mls.Group) (in []incomer, err error) {
	for m := range state.Members() {
		id, err := registry.Identity(m)
		if err != nil {
			return nil, err
		}
		in = append(in, incomer{m, id.UserID == c.UserID})
	}
	return in, nil
}

// proposed returns the leaves that a proposal brings in, if a Commit covers the proposal.
func proposed(before mls.Group, p *mls.Proposal) []incomer {
	switch {
	case p.Add != nil:
		return []incomer{{*p.Add, false}}
	case p.Update != nil:
		if old, _ := before.Member(p.Sender.Index); string(old.SignatureKey) != string(p.Update.SignatureKey) {
			return []incomer{{*p.Update, true}}
		}
	}
	return nil
}

// incomers returns the leaves that a Commit itself brings in. The server has judged the leaves of proposals by
// reference at their submission. If a Commit removes a leaf that must go and brings the same leaf back, this leaf is an
// incomer too.
func (sub *submission) incomers(e *mls.Effects) (in []incomer) {
	demanded := pendingRemoves(sub.group.Server, sub.live.MLS)
	brought := slices.Concat(e.Added, []mls.Member{e.Committer})
	for _, m := range slices.Concat(e.Renewed, slices.DeleteFunc(brought, func(m mls.Member) bool {
		return !slices.ContainsFunc(e.Removed, func(was mls.Member) bool {
			return isLeaf(&was, m) && slices.Contains(demanded, was.Leaf)
		})
	})) {
		proposed := slices.ContainsFunc(e.Proposals, func(p mls.Proposal) bool {
			return p.Ref != nil && (isLeaf(p.Add, m) || isLeaf(p.Update, m))
		})
		if !proposed {
			in = append(in, incomer{m, m.Leaf == e.Committer.Leaf})
		}
	}
	return in
}

func isLeaf(p *mls.Member, m mls.Member) bool {
	return p != nil && string(p.Identity) == string(m.Identity) && string(p.SignatureKey) == string(m.SignatureKey)
}
