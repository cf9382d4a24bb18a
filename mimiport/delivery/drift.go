package delivery

import (
	"context"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Drift implements API. It changes nothing.
func (s *Service) Drift(ctx context.Context, c api.Caller, id []byte) (*api.Drift, error) {
	g, err := s.groups.Group(ctx, id)
	if err != nil {
		return nil, err
	}
	if !c.Admin {
		if err := s.requireMember(ctx, c, g.RoomID); err != nil {
			return nil, err
		}
	}
	if err := s.requireHosted(ctx, g); err != nil {
		return nil, err
	}
	v, err := s.drifting(ctx, g)
	if err != nil {
		return nil, err
	}
	said, failed := s.look(ctx, g.Server, v.keys)
	res := &api.Drift{Epoch: v.epoch, Leaves: v.faulty(said), Unasked: names(failed)}
	joined, err := s.Rooms.Joined(ctx, g.RoomID)
	if err != nil {
		return nil, err
	}
	res.WithoutLeaf = append([]string{}, slices.DeleteFunc(joined, v.roster.Has)...)
	return res, nil
}

// drifting is a group's leaves, to compare them with its room and with devices.
type drifting struct {
	epoch  uint64
	leaves []api.DriftLeaf
	keys   []LeafKey // of leaves
	roster registry.Roster
}

func (s *core) drifting(ctx context.Context, g *storage.Group) (*drifting, error) {
	v := new(drifting)
	err := s.groups.WithLive(ctx, g.Key(), func(_ *storage.Group, l *registry.Live) (err error) {
		v.epoch = l.MLS.Epoch()
		if v.roster, err = registry.NewRoster(l.MLS); err != nil {
			return err
		}
		for m := range l.MLS.Members() {
			key, err := leafKey(l.MLS, m)
			if err != nil {
				return err
			}
			v.keys = append(v.keys, key)
			v.leaves = append(v.leaves, api.DriftLeaf{Leaf: m.Leaf, UserID: key.UserID, DeviceID: key.DeviceID})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	absent, err := s.Rooms.NotJoined(ctx, g.RoomID, v.roster.Users())
	if err != nil {
		return nil, err
	}
	isAbsent, seen := setOf(absent), make(map[[2]string]bool)
	for i := range v.leaves {
		l := &v.leaves[i]
		if isAbsent[l.UserID] {
			l.Faults = append(l.Faults, api.FaultNotJoined)
		}
		if seen[[2]string{l.UserID, l.DeviceID}] {
			l.Faults = append(l.Faults, api.FaultDuplicate)
		}
		seen[[2]string{l.UserID, l.DeviceID}] = true
	}
	return v, nil
}

var faults = map[Finding]api.Fault{
	DeviceUnlisted: api.FaultNoDevice, KeyMissing: api.FaultNoKey, KeyOther: api.FaultOtherKey,
}

// faulty lists the leaves that something is wrong with, with what homeservers have said.
func (v *drifting) faulty(said findings) []api.DriftLeaf {
	faulty := []api.DriftLeaf{}
	for i, l := range v.leaves {
		if found, asked := said[v.keys[i]]; asked && found != KeyPublished {
			l.Faults = append(l.Faults, faults[found])
		}
		if len(l.Faults) > 0 {
			faulty = append(faulty, l)
		}
	}
	return faulty
}
