package houserules

import (
	"regexp"
	"slices"
	"testing"
)

// skips finds in a Go or TypeScript test the ways to be skipped, and to ask where the test runs.
var skips = regexp.MustCompile(
	`\b(t|tb|b|f)\.Skip(f|Now)?\(|\bskip: (true|")|\.skip\(|Getenv\("CI"\)|process\.env\.CI\b`)

// maySkip are the places that decide when a test is skipped, and those where rapid skips one of its draws.
var maySkip = []string{"internal/needs/needs.go", "internal/houserules/skips_test.go", "mimiport/proof/proof_test.go"}

// TestOnePlaceSkips fails when a test is skipped, or looks at CI, otherwise than through internal/needs or its like in
// clients/ts.
func TestOnePlaceSkips(t *testing.T) {
	for path, text := range files(t, ".go", ".test.ts") {
		if found := skips.FindString(text); found != "" && !slices.Contains(maySkip, path) {
			t.Errorf("%s has %s: a test says what it needs to internal/needs or to clients/ts/test/needs.ts", path, found)
		}
	}
}
