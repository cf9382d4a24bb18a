// Package adversary plays the attacks of a hostile server and of hostile members against real homeservers. After each
// attack it checks that honest members can go on. docs/threats.md lists the attackers and the attacks.
package adversary

import (
	"os"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Run(m)) }
