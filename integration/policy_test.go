package integration

import (
	"maps"
	"net/http"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// Profile, section 8: "the admin API changes them at run time and the change survives a restart". A new policy
// of the source or of the target applies to the next decision.
func TestPolicyAtRunTime(t *testing.T) {
	p := newPair(t)
	a, b := p.alice.User.Server, p.bob.User.Server
	rootA, rootB := harness.RegisterUser(t, a, "admin", true), harness.RegisterUser(t, b, "admin", true)
	for _, c := range []struct {
		name   string
		admin  *harness.User // of the server with the policy
		policy policy
		code   string
	}{
		{"the target takes from nobody", rootB, policy{"target": "nobody"}, "M_FORBIDDEN"},
		{"the target denies the source", rootB, policy{"deny_servers": []string{a.Name}}, "M_FORBIDDEN"},
		{"the target allows another server", rootB, policy{"allow_servers": []string{"s.example"}}, "M_FORBIDDEN"},
		{"nobody moves from the source", rootA, policy{"source": "nobody"}, "M_FORBIDDEN"},
		{"administrators move from the source", rootA, policy{"source": "server_admin"}, "M_FORBIDDEN"},
		{"the source denies the target", rootA, policy{"deny_servers": []string{b.Name}}, "M_FORBIDDEN"},
		{"the user has open offers enough", rootB, policy{"quotas": map[string]int{"offers": 1}}, "M_LIMIT_EXCEEDED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			setPolicy(t, c.admin, c.policy)
			p.requireMoveRefused(t, c.code)
			setPolicy(t, c.admin, nil)
		})
	}

	setPolicy(t, rootA, policy{"source": "any_member"})
	setPolicy(t, rootB, policy{"target": "nobody"})
	restart(t, a)
	restart(t, b)
	p.requireMoveRefused(t, "M_FORBIDDEN")
	setPolicy(t, rootB, nil)
	if err := p.bob.User.SetPowerLevel(t.Context(), p.Room, p.bob.User.ID, 0); err != nil {
		t.Fatal(err)
	}
	p.Move(t, p.bob, b)
	p.Talk(t)
	p.RequireAt(t, b, 1)
}

type policy map[string]any

// setPolicy sets the given fields, and all others to their defaults.
func setPolicy(t *testing.T, admin *harness.User, fields policy) {
	t.Helper()
	body := policy{"preset": "default"}
	maps.Copy(body, fields)
	if err := admin.Do(t.Context(), http.MethodPut, adminapi.PathPrefix+"/policy", body, nil); err != nil {
		t.Fatal(err)
	}
}

// requireMoveRefused checks that bob cannot move the group to his homeserver, and that the members can still send.
func (p *pair) requireMoveRefused(t *testing.T, code string) {
	t.Helper()
	err := p.bob.Do(harness.Within(t), "migrate", harness.Args{"target": p.bob.User.Server.Name}, nil)
	harness.RequireRefused(t, err, code)
	p.Talk(t)
}
