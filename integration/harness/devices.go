package harness

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/matrix-org/gomatrixserverlib"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// Login logs a registered user in on another device.
func (u *User) Login(ctx context.Context, deviceID string) (*User, error) {
	var a account
	err := (&User{Server: u.Server}).Do(ctx, http.MethodPost, "/_matrix/client/v3/login", map[string]any{
		"type": "m.login.password", "password": u.Password, "device_id": deviceID,
		"identifier": map[string]any{"type": "m.id.user", "user": u.ID},
	}, &a)
	other := a.at(u.Server)
	other.Password = u.Password
	return other, err
}

// Logout logs the device out. The homeserver then deletes the device.
func (u *User) Logout(ctx context.Context) error {
	return u.Do(ctx, http.MethodPost, "/_matrix/client/v3/logout", struct{}{}, nil)
}

// Deactivate deactivates the account.
func (u *User) Deactivate(ctx context.Context) error {
	const path = "/_matrix/client/v3/account/deactivate"
	err := u.Do(ctx, http.MethodPost, path, struct{}{}, nil)
	challenge, ok := errors.AsType[*Error](err)
	if !ok {
		return err
	}
	return u.Do(ctx, http.MethodPost, path, map[string]any{"auth": map[string]any{
		"type": "m.login.password", "password": u.Password, "session": challenge.Fields["session"],
		"identifier": map[string]any{"type": "m.id.user", "user": u.ID},
	}}, nil)
}

// PublishKey uploads the Matrix device keys of the device, for the given algorithms. They include the MLS signature
// key, unless key is nil (profile, section 7).
func (u *User) PublishKey(ctx context.Context, scheme string, key []byte, algorithms ...string) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	keys := map[string]string{"ed25519:" + u.DeviceID: base64.RawStdEncoding.EncodeToString(public)}
	if key != nil {
		keys[api.DeviceKeyName(scheme, u.DeviceID)] = base64.RawStdEncoding.EncodeToString(key)
	}
	unsigned, err := json.Marshal(map[string]any{
		"user_id": u.ID, "device_id": u.DeviceID, "algorithms": append([]string{}, algorithms...), "keys": keys,
	})
	if err != nil {
		return err
	}
	signed, err := gomatrixserverlib.SignJSON(u.ID, gomatrixserverlib.KeyID("ed25519:"+u.DeviceID), private, unsigned)
	if err != nil {
		return err
	}
	return u.Do(ctx, http.MethodPost, "/_matrix/client/v3/keys/upload", map[string]any{
		"device_keys": json.RawMessage(signed),
	}, nil)
}
