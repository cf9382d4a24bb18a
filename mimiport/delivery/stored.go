package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// RequireReadablePolicy fails with a KindBadMessage error if the policy that the admin API has set does not parse. Then
// the server can decide nothing. No stored policy is fine: the server takes its defaults.
func RequireReadablePolicy(ctx context.Context, settings storage.Settings) error {
	return requireReadable(ctx, settings, policySetting, func(raw json.RawMessage) error {
		if _, err := policy.Default().Merge(raw); err != nil {
			return fmt.Errorf("the stored policy does not parse: %w", err)
		}
		return nil
	})
}

// RequireReadableDrain fails with a KindBadMessage error if the operator's last order to empty the server does not
// parse. Then the server can decide nothing. No stored order is fine.
func RequireReadableDrain(ctx context.Context, settings storage.Settings) error {
	return requireReadable(ctx, settings, drainSetting, func(raw json.RawMessage) error {
		if _, err := parseOrder(raw); err != nil {
			return mimiport.Errorf("read drain", mimiport.KindBadMessage, "%w", err)
		}
		return nil
	})
}

// requireReadable fails if a setting is there and does not parse.
func requireReadable(
	ctx context.Context, settings storage.Settings, name string, parse func(json.RawMessage) error,
) error {
	raw, err := settings.Setting(ctx, name)
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return parse(raw)
}

// ForgetService makes a store forget when its server was in service. A store that was restored from a backup proves
// nothing about that: see Started.
func ForgetService(ctx context.Context, settings storage.Settings) error {
	return settings.PutSetting(ctx, heartbeatSetting, []byte("{}"))
}
