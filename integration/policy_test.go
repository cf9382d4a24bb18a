package integration

import (
	"errors"
	"maps"
	"net/http"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// Profile, section 8: "the admin API changes them at run time and the change survives a restart". Each policy counts from the next
// decision on, on either side.
func TestPolicyAtRunTime(t *testing.T) {
	p := newPair(t)
	a, b := p.alice.User.Server, p.bob.User.Server
	rootA, rootB := harness.RegisterUser(t, a, "admin", true), harness.RegisterUser(t, b, "admin", true)
	for _, c := range []struct {
		name   string
		admin  *harness.User // of the server whose policy it is
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
			p.refuses(t, c.code)
			setPolicy(t, c.admin, nil)
		})
	}

	setPolicy(t, rootA, policy{"source": "any_member"})
	setPolicy(t, rootB, policy{"target": "nobody"})
	restart(t, a)
	restart(t, b)
	p.refuses(t, "M_FORBIDDEN")
	setPolicy(t, rootB, nil)
	if err := p.bob.User.SetPowerLevel(t.Context(), p.room, p.bob.User.ID, 0); err != nil {
		t.Fatal(err)
	}
	do(t, p.bob, "migrate", harness.Args{"target": b.Name}, nil)
	p.talk(t)
	if ds := p.settle(t); ds.DS != b.Name {
		t.Errorf("the group is at %s", ds.DS)
	}
}

type policy map[string]any

// setPolicy sets the fields named and gives all others their defaults.
func setPolicy(t *testing.T, admin *harness.User, fields policy) {
	t.Helper()
	body := policy{"preset": "default"}
	maps.Copy(body, fields)
	if err := admin.Do(t.Context(), http.MethodPut, adminapi.PathPrefix+"/policy", body, nil); err != nil {
		t.Fatal(err)
	}
}

// refuses checks that bob is refused when he has the group moved to his homeserver, and that all goes on.
func (p *pair) refuses(t *testing.T, code string) {
	t.Helper()
	err := p.bob.Do(harness.Within(t), "migrate", harness.Args{"target": p.bob.User.Server.Name}, nil)
	var refused *harness.Error
	if !errors.As(err, &refused) || refused.Code != code {
		t.Errorf("got %v, want %s", err, code)
	}
	p.talk(t)
}
