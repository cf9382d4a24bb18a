package federation

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// DeviceKeys has the public keys of devices by user, device and name of the key, as in Matrix device keys. A device
// whose keys do not decode is there without keys.
type DeviceKeys map[string]map[string]map[string]string

// MaxDeviceKey is the largest size of a published key in bytes.
const MaxDeviceKey = 255

// Published returns the key that a device publishes for direct requests, or a KindBadSignature error.
func (d DeviceKeys) Published(of api.DirectKey) ([]byte, error) {
	name := api.DeviceKeyName(of.Scheme, of.DeviceID)
	key, err := base64.RawStdEncoding.DecodeString(d[of.UserID][of.DeviceID][name])
	if err != nil || len(key) == 0 || len(key) > MaxDeviceKey {
		const why = "device %s of %s publishes no key of that name"
		return nil, mimiport.Errorf("look up device key", mimiport.KindBadSignature, why, of.DeviceID, of.UserID)
	}
	return key, nil
}

// usersAtOnce is the largest number of users in one request. It keeps the answer small.
const usersAtOnce = 32

// DeviceKeys asks a server for the devices of some of its users (Matrix specification, server-server API, "POST
// /_matrix/federation/v1/user/keys/query"). It returns a KindPeer error for any failure and any refusal.
func (c *Client) DeviceKeys(ctx context.Context, from, server string, users []string) (DeviceKeys, error) {
	all := make(DeviceKeys)
	for some := range slices.Chunk(users, usersAtOnce) {
		if err := c.addSmaller(ctx, from, server, some, all); err != nil {
			return nil, mimiport.Errorf("ask for devices", mimiport.KindPeer, "%s: %w", server, mimiport.Heard(err))
		}
	}
	return all, nil
}

// addSmaller is addDeviceKeys, but it splits the users when the answer is too long.
func (c *Client) addSmaller(ctx context.Context, from, server string, users []string, all DeviceKeys) error {
	err := c.addDeviceKeys(ctx, from, server, users, all)
	if len(users) == 1 || !errors.Is(err, ErrTooLong) {
		return err
	}
	half := len(users) / 2
	if err := c.addSmaller(ctx, from, server, users[:half], all); err != nil {
		return err
	}
	return c.addSmaller(ctx, from, server, users[half:], all)
}

func (c *Client) addDeviceKeys(ctx context.Context, from, server string, users []string, all DeviceKeys) error {
	wanted := make(map[string][]string, len(users))
	for _, user := range users {
		wanted[user] = []string{} // all devices
	}
	_, body, err := c.do(ctx, request{
		from: from, to: server, op: "ask for devices", limit: maxSmallAnswer,
		method: http.MethodPost, uri: "/_matrix/federation/v1/user/keys/query",
		content: map[string]any{"device_keys": wanted},
	})
	if err != nil {
		return err
	}
	var answer struct {
		DeviceKeys map[string]map[string]json.RawMessage `json:"device_keys"`
	}
	if err := plainjson.Unmarshal(body, &answer); err != nil {
		return err
	}
	for _, user := range users {
		all[user] = make(map[string]map[string]string)
		for id, device := range answer.DeviceKeys[user] {
			all[user][id] = ParseDeviceKeys(user, id, device)
		}
	}
	return nil
}

// ParseDeviceKeys reads the keys of one device from its Matrix device keys. It returns nil when these do not decode or
// are of another device.
func ParseDeviceKeys(userID, deviceID string, deviceKeys []byte) map[string]string {
	var device struct {
		UserID   string            `json:"user_id"`
		DeviceID string            `json:"device_id"`
		Keys     map[string]string `json:"keys"`
	}
	if json.Unmarshal(deviceKeys, &device) != nil || device.UserID != userID || device.DeviceID != deviceID {
		return nil
	}
	return device.Keys
}
