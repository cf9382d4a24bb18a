package delivery_test

import (
	"encoding/json"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
)

// TestSetPolicy: the server checks and merges the admin's policy. The policy is effective at once and survives a
// restart. A wrong policy changes nothing.
func TestSetPolicy(t *testing.T) {
	w := newWorld(t)
	svc := w.services[serverA]
	for _, bad := range []string{
		`{"source":"everybody"}`, `{"target":""}`, `{"sauce":"nobody"}`, `{"preset":"wild"}`,
		`{"quotas":{"groups":-1}}`, `[]`, `{`,
		`{"deny_servers":"b.example"}`,
	} {
		_, err := svc.SetPolicy(t.Context(), json.RawMessage(bad))
		expectKind(t, err, mimiport.KindBadMessage)
	}
	if p, err := svc.Policy(t.Context()); err != nil || p.Source != policy.SourcePowerLevel {
		t.Errorf("after bad requests the policy is %+v, %v", p, err)
	}
	if _, err := svc.SetPolicy(t.Context(),
		json.RawMessage(`{"source":"nobody","deny_servers":["b.example"]}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.SetPolicy(t.Context(), json.RawMessage(`{"quotas":{"groups":7}}`)); err != nil {
		t.Fatal(err)
	}
	p, err := delivery.New(svc.Deps).Policy(t.Context())
	if err != nil || p.Source != policy.SourceNobody || len(p.DenyServers) != 1 || p.Quotas.Groups != 7 ||
		p.Quotas.Members != 50_000 {
		t.Errorf("after a restart the policy is %+v, %v", p, err)
	}
}
