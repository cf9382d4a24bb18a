package draft09

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"

	"github.com/matrix-org/gomatrixserverlib/spec"
)

// algorithm is the algorithm of one-time keys that are KeyPackages (profile, section 12).
const algorithm = "io.github.mimiport.key_package"

// oneTimeKey is a KeyPackage as a one-time key.
type oneTimeKey struct {
	Key spec.Base64Bytes `json:"key"`
}

// publishKeyPackage publishes the client's only KeyPackage. The command identity has published the device keys, by
// which others find the device.
func (c *client) publishKeyPackage(ctx context.Context, _ *command) (any, error) {
	message, err := c.member.KeyPackage()
	if err != nil {
		return nil, err
	}
	ref := sha256.Sum256(message[1:]) // docs/mls-draft09.md
	id := algorithm + ":" + base64.RawURLEncoding.EncodeToString(ref[:12])
	return nil, c.user.Do(ctx, http.MethodPost, "/_matrix/client/v3/keys/upload", map[string]any{
		"one_time_keys": map[string]oneTimeKey{id: {message}},
	}, nil)
}

// claimKeyPackages claims a KeyPackage of each device of a user that has published one.
func (c *client) claimKeyPackages(ctx context.Context, user string) (messages [][]byte, err error) {
	var found struct {
		DeviceKeys map[string]map[string]struct {
			Algorithms []string `json:"algorithms"`
		} `json:"device_keys"`
	}
	query := map[string]any{"device_keys": map[string][]string{user: {}}}
	if err := c.user.Do(ctx, http.MethodPost, "/_matrix/client/v3/keys/query", query, &found); err != nil {
		return nil, err
	}
	wanted := map[string]string{}
	for device, keys := range found.DeviceKeys[user] {
		if slices.Contains(keys.Algorithms, algorithm) {
			wanted[device] = algorithm
		}
	}
	var claimed struct {
		OneTimeKeys map[string]map[string]map[string]oneTimeKey `json:"one_time_keys"`
	}
	claim := map[string]any{"one_time_keys": map[string]map[string]string{user: wanted}}
	if err := c.user.Do(ctx, http.MethodPost, "/_matrix/client/v3/keys/claim", claim, &claimed); err != nil {
		return nil, err
	}
	for _, keys := range claimed.OneTimeKeys[user] {
		for _, k := range keys {
			messages = append(messages, k.Key)
		}
	}
	if len(messages) == 0 {
		return nil, fmt.Errorf("%s has no KeyPackage left", user)
	}
	return messages, nil
}
