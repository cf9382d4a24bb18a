package houserules

import (
	"regexp"
	"slices"
	"testing"
)

// skips matches the ways of a Go or TypeScript test to skip itself, or to find out where it runs.
var skips = regexp.MustCompile(
	`\b(t|tb|b|f)\.Skip(f|Now)?\(|\bskip: (true|")|\.skip\(|Getenv\("CI"\)|process\.env\.CI\b`)

// maySkip lists the places that may skip a test, and those where rapid skips one of its draws.
var maySkip = []string{"internal/needs/needs.go", "internal/houserules/skips_test.go", "mimiport/proof/proof_test.go"}

// TestOnePlaceSkips fails when a test skips itself or looks at CI without internal/needs or clients/ts/test/needs.ts.
func TestOnePlaceSkips(t *testing.T) {
	for path, text := range files(t, ".go", ".test.ts") {
		if found := skips.FindString(text); found != "" && !slices.Contains(maySkip, path) {
			t.Errorf("%s has %s: a test says what it needs to internal/needs or to clients/ts/test/needs.ts", path, found)
		}
	}
}
