//go:build !race

package outbox_test

import (
	"fmt"
	"testing"
)

// The test runs without the race detector, whose own runtime now and then crashes under so many timers.

// Servers that hang or are slow take places from healthy ones. A request for many messages makes up for that: the
// healthy servers still get more than a tenth of the messages. In the earlier way they get next to none.
// BenchmarkUnwell has the figures.
func TestUnwellServers(t *testing.T) {
	rate := make(map[string]float64)
	for _, way := range ways {
		for _, unwell := range []int{0, 50} {
			rate[fmt.Sprint(way, unwell)] = rateBeside(t, way, unwell)
			t.Logf("%s: %.0f messages a second with %d servers that hang and %d slow ones", way,
				rate[fmt.Sprint(way, unwell)], unwell, unwell)
		}
	}
	if rate["batch50"] < rate["batch0"]/10 || rate["one50"] > rate["one0"]/10 {
		t.Error("batches do not make up for servers that are not well")
	}
}
