package integration

import (
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
)

// TestSynapseReceives: what TestUnmodifiedReceiver says of Dendrite, of a Synapse.
func TestSynapseReceives(t *testing.T) {
	n := harness.NewTestNetwork(t)
	synapse := n.StartSynapse(t)
	p := newPairAt(t, n.StartServer(t, harness.Section), n.StartServer(t, harness.Section))
	p.requireReceives(t, synapse)
}
