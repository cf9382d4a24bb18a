package delivery

import (
	"context"
	"maps"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Drift implements API.
func (s removals) Drift(ctx context.Context, c api.Caller, id []byte) (*api.Drift, error) {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	if !c.Admin {
		if err := s.requireMemberAt(ctx, c, g.RoomID); err != nil {
			return nil, err
		}
	}
	if err := s.requireHosted(ctx, g); err != nil {
		return nil, err
	}
	var state mls.Group
	err = s.groups.WithLive(ctx, g.Key(), func(_ *storage.Group, l *registry.Live) error {
		state = l.MLS
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.drift(ctx, g, state)
}

// drift compares a state of a group with its room and with the devices of its users.
func (s *core) drift(ctx context.Context, g *storage.Group, state mls.Group) (*api.Drift, error) {
	var keys []LeafKey
	var leaves []uint32
	isMember := make(map[string]bool)
	for m := range state.Members() {
		key, err := leafKey(state, m)
		if err != nil {
			return nil, err
		}
		keys, leaves, isMember[key.UserID] = append(keys, key), append(leaves, m.Leaf), true
	}
	room, err := s.Rooms.Room(ctx, g.RoomID)
	if err != nil {
		return nil, err
	}
	absent, err := s.absent(ctx, room, slices.Sorted(maps.Keys(isMember)))
	if err != nil {
		return nil, err
	}
	said, failed := s.look(ctx, g.Server, keys)
	d := &api.Drift{Epoch: state.Epoch(), Leaves: []api.DriftLeaf{}, WithoutLeaf: []string{}, Unasked: names(failed)}
	isAbsent, isSecond := setOf(absent), secondLeaves(state)
	for i, key := range keys {
		l := api.DriftLeaf{Leaf: leaves[i], UserID: key.UserID, DeviceID: key.DeviceID}
		if isAbsent[key.UserID] {
			l.Faults = append(l.Faults, api.FaultNotJoined)
		}
		if isSecond[l.Leaf] {
			l.Faults = append(l.Faults, api.FaultDuplicate)
		}
		if found, asked := said[key]; asked && found != KeyPublished {
			l.Faults = append(l.Faults, faults[found])
		}
		if len(l.Faults) > 0 {
			d.Leaves = append(d.Leaves, l)
		}
	}
	for _, user := range room.Joined() {
		if !isMember[user] {
			d.WithoutLeaf = append(d.WithoutLeaf, user)
		}
	}
	slices.Sort(d.WithoutLeaf)
	return d, nil
}

var faults = map[Finding]api.Fault{
	DeviceUnlisted: api.FaultNoDevice, KeyMissing: api.FaultNoKey, KeyOther: api.FaultOtherKey,
}

// secondLeaves returns each leaf whose device has another leaf with a lower index.
func secondLeaves(g mls.Group) map[uint32]bool {
	second := make(map[uint32]bool)
	for _, m := range g.Duplicates() {
		second[m.Leaf] = true
	}
	return second
}
