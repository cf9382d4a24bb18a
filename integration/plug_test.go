package integration

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// TestServersFederate: two homeservers with the module exchange room events, as without it.
func TestServersFederate(t *testing.T) {
	servers := harness.StartServers(t, 2)
	alice := harness.RegisterUser(t, servers[0], "alice", false)
	bob := harness.RegisterUser(t, servers[1], "bob", false)
	room := harness.SharedRoom(t, alice, bob)

	sent, err := alice.Send(t.Context(), room, "m.room.message", map[string]string{"msgtype": "m.text", "body": "hello"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = bob.Await(harness.Within(t), "", func(s *harness.Sync) bool {
		for _, e := range s.Rooms.Join[room].Timeline.Events {
			if e.ID == sent {
				return true
			}
		}
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestVersionsAdvertiseTheFeature(t *testing.T) {
	network := harness.NewTestNetwork(t)
	sections := map[string]bool{harness.Section: true, "mimi_portability: {enabled: false}": false, "": false}
	for name, want := range sections {
		if got := features(t, network.StartServer(t, name))[api.Namespace]; got != want {
			t.Errorf("with section %q the advertised feature is %v", name, got)
		}
	}
}

func features(t *testing.T, s *harness.Server) map[string]bool {
	t.Helper()
	var versions struct {
		Versions []string        `json:"versions"`
		Features map[string]bool `json:"unstable_features"`
	}
	anybody := &harness.User{Server: s}
	if err := anybody.Do(t.Context(), http.MethodGet, "/_matrix/client/versions", nil, &versions); err != nil {
		t.Fatal(err)
	}
	if len(versions.Versions) == 0 {
		t.Error("the answer lacks Dendrite's own versions")
	}
	return versions.Features
}

func TestDisabledAddsNothing(t *testing.T) {
	s := harness.NewTestNetwork(t).StartServer(t, strings.Replace(harness.Section, "enabled: true", "enabled: false", 1))
	alice := harness.RegisterUser(t, s, "alice", true)
	for _, path := range []string{
		"/_matrix/client/unstable/io.github.mimiport.v0/ds/" + s.Name + "/groups/AAAA",
		"/_matrix/federation/unstable/io.github.mimiport.v0/groups/AAAA",
		"/_dendrite/admin/mimiport/policy",
	} {
		var refused *harness.Error
		err := alice.Do(t.Context(), http.MethodGet, path, nil, &json.RawMessage{})
		if !errors.As(err, &refused) || refused.Status != http.StatusNotFound || refused.Code != "M_UNRECOGNIZED" {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := os.Stat(s.Dir + "/mimi_portability.db"); !os.IsNotExist(err) {
		t.Errorf("the database exists: %v", err)
	}
}

func TestUnknownKeyRefusesToStart(t *testing.T) {
	network := harness.NewTestNetwork(t)
	_, err := network.Start(t.Context(), "mimi_portability: {enabled: true, max_group_state_bites: 1}")
	if err == nil || !strings.Contains(err.Error(), "max_group_state_bites") {
		t.Errorf("got %v", err)
	}
}

// TestKillStopRestart: the database survives kill -9, and an idle server stops without an error. A busy Dendrite may
// end with an error.
func TestKillStopRestart(t *testing.T) {
	s := harness.StartServers(t, 1)[0]
	alice := harness.RegisterUser(t, s, "alice", false)
	restart(t, s)
	room, err := alice.CreateRoom(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	restart(t, s)
	if err := alice.State(t.Context(), room, "m.room.create", nil); err != nil {
		t.Error(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
}
