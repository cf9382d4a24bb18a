package delivery

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// resorts keeps a KeyPackage of last resort for each device of this server that publishes one (profile, section 12).
// The homeserver has no fallback keys of its own.
type resorts struct{ *core }

// PutLastResort implements API.
func (s resorts) PutLastResort(
	ctx context.Context, c api.Caller, value *json.RawMessage,
) (*api.PutLastResortResponse, error) {
	if c.OwnDevice == "" {
		return nil, forbidden("", "a device publishes its KeyPackage at its own homeserver, with its access token")
	}
	if err := requireLastResort(c.UserID, *value); err != nil {
		return nil, err
	}
	err := s.Store.PutLastResort(ctx, &storage.LastResort{UserID: c.UserID, DeviceID: c.OwnDevice, Value: *value})
	if full, ok := errors.AsType[*storage.LimitError](err); ok {
		return nil, forbidden(full.Quota, "%s has %d KeyPackages of last resort", c.UserID, storage.MaxLastResorts)
	}
	if err != nil {
		return nil, err
	}
	return new(api.PutLastResortResponse), nil
}

// requireLastResort fails unless a value has the form of a fallback key that a user has signed. The claimer checks the
// signature, with the keys that the device publishes then.
func requireLastResort(userID string, value json.RawMessage) error {
	const op = "publish KeyPackage"
	var v struct {
		Key        string                       `json:"key"`
		Fallback   bool                         `json:"fallback"`
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := plainjson.Unmarshal(value, &v); err != nil {
		return mimiport.Errorf(op, mimiport.KindBadMessage, "%w", err)
	}
	key, err := base64.RawStdEncoding.DecodeString(v.Key)
	if err != nil || len(key) == 0 || !v.Fallback || len(v.Signatures[userID]) == 0 {
		return mimiport.Errorf(op, mimiport.KindBadMessage, "it is not a fallback key that %s has signed", userID)
	}
	return nil
}

// ClaimLastResorts implements API.
func (s resorts) ClaimLastResorts(
	ctx context.Context, _ api.Caller, req *api.ClaimLastResortsRequest,
) (*api.ClaimLastResortsResponse, error) {
	devices := 0
	for _, ids := range req.Devices {
		devices += max(1, len(ids))
	}
	if devices > api.MaxClaimed {
		const why = "a request names at most %d devices"
		return nil, mimiport.Errorf("claim KeyPackages", mimiport.KindTooLarge, why, api.MaxClaimed)
	}
	found := make(map[string]map[string]json.RawMessage)
	for user, ids := range req.Devices {
		values, err := s.lastResorts(ctx, user)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			if value, ok := values[id]; ok {
				if found[user] == nil {
					found[user] = make(map[string]json.RawMessage)
				}
				found[user][id] = value
			}
		}
	}
	return &api.ClaimLastResortsResponse{KeyPackages: found}, nil
}

// lastResorts are the KeyPackages of last resort of a user's devices, by device. Those of deleted devices are deleted.
func (s *core) lastResorts(ctx context.Context, userID string) (map[string]json.RawMessage, error) {
	kept, err := s.Store.LastResorts(ctx, userID)
	if err != nil || len(kept) == 0 {
		return nil, err
	}
	server := registry.ServerOf(userID)
	devices := make([]LeafKey, len(kept))
	for i := range kept {
		devices[i] = LeafKey{UserID: userID, DeviceID: kept[i].DeviceID}
	}
	found, err := s.Devices.Look(ctx, server, server, devices)
	if err != nil {
		return nil, err
	}
	values := make(map[string]json.RawMessage)
	for i := range kept {
		if found[i] != DeviceUnlisted {
			values[kept[i].DeviceID] = kept[i].Value
			continue
		}
		if err := s.Store.DropLastResort(ctx, userID, kept[i].DeviceID); err != nil {
			return nil, err
		}
	}
	return values, nil
}
