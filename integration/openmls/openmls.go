// Package openmls is a Matrix client for tests that uses OpenMLS. It is a process of Node.js, which takes the commands
// of the TypeScript client.
package openmls

import (
	"context"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// StartClient starts a client process for a user and logs it in with the user's token.
func StartClient(ctx context.Context, u *harness.User) (*harness.Client, error) {
	_, file, _, _ := runtime.Caller(0)
	return harness.StartProgram(ctx, u, exec.Command("node", filepath.Join(filepath.Dir(file), "driver.mjs")), "")
}
