package houserules

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	testName = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w*`)
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)

	clientTestTitle = regexp.MustCompile("`clients/ts` \"([^\"]+)\"")
	saysTest        = regexp.MustCompile(testName.String() + "|" + clientTestTitle.String() + "|not yet|no test:")
	clientTestCall  = regexp.MustCompile(`(?m)^\s*test\("([^"]+)"`)

	attackNames = regexp.MustCompile("`adversary`((?: \"[^\"]+\",?)+)")
	attackName  = regexp.MustCompile(`"([^"]+)"`)
	attackRow   = regexp.MustCompile(`(?m)^\s*name: "([^"]+)"`)
)

// testsInTree has the names of all Go tests and fuzz targets of this module, the titles of the reference client's
// tests, and the attacks of the adversary.
func testsInTree(t *testing.T) map[string]bool {
	t.Helper()
	tests := make(map[string]bool)
	for path, source := range files(t, "_test.go", ".test.ts") {
		defines := testFunc
		if strings.HasSuffix(path, ".ts") {
			defines = clientTestCall
		}
		for _, match := range defines.FindAllStringSubmatch(source, -1) {
			tests[match[1]] = true
		}
		if strings.HasSuffix(path, "/adversary/adversary_test.go") {
			for _, match := range attackRow.FindAllStringSubmatch(source, -1) {
				tests[match[1]] = true
			}
		}
	}
	return tests
}

// TestDocumentedTestsExist fails when a document names a test that is not in the tree.
func TestDocumentedTestsExist(t *testing.T) {
	tests := testsInTree(t)
	documents, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(documents) == 0 {
		t.Fatalf("no documents (%v)", err)
	}
	for _, path := range documents {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		named := testName.FindAllString(string(text), -1)
		for _, title := range clientTestTitle.FindAllStringSubmatch(string(text), -1) {
			named = append(named, title[1])
		}
		for _, list := range attackNames.FindAllStringSubmatch(string(text), -1) {
			for _, attack := range attackName.FindAllStringSubmatch(list[1], -1) {
				named = append(named, attack[1])
			}
		}
		for _, name := range named {
			if !tests[name] {
				t.Errorf("%s names %s, which does not exist", path, name)
			}
		}
	}
}

// TestConformanceRowsAreComplete fails when a row of docs/conformance.md names no test and does not say why there is
// none.
func TestConformanceRowsAreComplete(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| sentence") ||
			strings.HasPrefix(line, "| rule") {
			continue
		}
		rows++
		if len(cells) != 3 || !saysTest.MatchString(cells[2]) {
			t.Errorf("a row without its test: %s", line)
		}
	}
	if rows < 100 {
		t.Errorf("only %d rows", rows)
	}
}
