// Package adversary plays a hostile server and hostile members against real homeservers, attack by attack, and checks
// after each one that honest use goes on. docs/threats.md says which rule each attack tests.
package adversary

import (
	"os"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Run(m)) }
