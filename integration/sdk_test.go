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
	runScript(t, "beside.js", map[string]any{
		"sessions": []any{session(alice), session(bob)}, "room": harness.SharedRoom(t, alice, bob),
	})
}

// TestSDKCrossSigned: the user has cross-signed a device of matrix-js-sdk, which then gets an MLS key. The homeserver
// keeps the signature, which no longer holds. The SDK, which has the user's self-signing key, signs the device anew.
func TestSDKCrossSigned(t *testing.T) {
	alice := harness.RegisterUser(t, harness.StartServers(t, 1)[0], "alice", false)
	runScript(t, "cross-signed.js", map[string]any{"session": session(alice), "password": alice.Password})
}

// session returns a user's login as the TypeScript client has it.
func session(u *harness.User) map[string]string {
	return map[string]string{"homeserver": u.Server.URL, "token": u.Token, "userId": u.ID, "deviceId": u.DeviceID}
}

// runScript runs a script of the TypeScript client's tests. Its argument is JSON.
func runScript(t *testing.T, name string, argument any) {
	t.Helper()
	given, err := json.Marshal(argument)
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join("..", "clients", "ts", "dist", "test", name)
	if out, err := exec.CommandContext(harness.Within(t), "node", script, string(given)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
