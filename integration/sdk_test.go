package integration

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// TestSDK: a device that matrix-js-sdk logs in, with its Rust crypto, has MLS groups too. Its Olm keys stay, so that it
// encrypts by Megolm before and after. The SDK alone follows /sync.
func TestSDK(t *testing.T) {
	servers := harness.StartServers(t, 2)
	alice := harness.RegisterUser(t, servers[0], "alice", false)
	bob := harness.RegisterUser(t, servers[1], "bob", false)
	session := func(u *harness.User) map[string]string {
		return map[string]string{
			"homeserver": u.Server.URL, "token": u.Token, "userId": u.ID, "deviceId": u.DeviceID,
		}
	}
	given, err := json.Marshal(map[string]any{
		"sessions": []any{session(alice), session(bob)}, "room": harness.SharedRoom(t, alice, bob),
	})
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join("..", "clients", "ts", "dist", "test", "beside.js")
	if out, err := exec.CommandContext(harness.Within(t), "node", script, string(given)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
