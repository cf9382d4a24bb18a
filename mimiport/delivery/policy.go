package delivery

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// policySetting is the name under which the operator's policy is stored.
const policySetting = "policy"

// Policy is the one in force: the configured defaults, or what the admin API has set since.
func (s *Service) Policy(ctx context.Context) (policy.Policy, error) {
	raw, err := s.Store.Setting(ctx, policySetting)
	if errors.Is(err, storage.ErrNotFound) {
		return s.DefaultPolicy, nil
	}
	if err != nil {
		return policy.Policy{}, err
	}
	var p policy.Policy
	err = json.Unmarshal(raw, &p)
	return p, err
}

// SetPolicy merges patch into the policy in force and keeps the result across restarts. It counts from the next decision on.
func (s *Service) SetPolicy(ctx context.Context, patch json.RawMessage) (policy.Policy, error) {
	p, err := s.Policy(ctx)
	if err != nil {
		return p, err
	}
	if p, err = p.Merge(patch); err != nil {
		return p, err
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return p, err
	}
	return p, s.Store.PutSetting(ctx, policySetting, raw)
}
