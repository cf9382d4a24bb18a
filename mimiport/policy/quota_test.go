package policy_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
)

// TestQuotas: every quota has a default, cannot be negative, and has its own refusal, with or without a time to wait.
func TestQuotas(t *testing.T) {
	defaults := reflect.ValueOf(policy.Default().Quotas)
	for i := range defaults.NumField() {
		name := defaults.Type().Field(i).Tag.Get("json")
		if defaults.Field(i).Int() <= 0 {
			t.Errorf("%s has no default", name)
		}
		if _, err := policy.Default().Merge(json.RawMessage(fmt.Sprintf(`{"quotas":{%q:-1}}`, name))); err == nil {
			t.Errorf("%s may be negative", name)
		}
		e := policy.Exceeded(name)
		want := mimiport.KindForbidden
		if e.Info.RetryAfter > 0 {
			want = mimiport.KindQuota
		}
		if e.Kind != want || e.Info.Rule != name || e.Err.Error() == "" {
			t.Errorf("%s refuses with %+v", name, e)
		}
	}
	if policy.Draft().Quotas != (policy.Quotas{}) {
		t.Error("the draft's policy has quotas")
	}
}
