package houserules

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentedLogLines: the code has each log line that the operator's guide explains.
func TestDocumentedLogLines(t *testing.T) {
	guide, err := os.ReadFile(root + "/docs/operator.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(guide), "These need a person:\n\n| line | meaning |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	if !found {
		t.Fatal("the guide has no table of log lines")
	}
	var code strings.Builder
	for path, text := range files(t, ".go") {
		if !strings.HasSuffix(path, "_test.go") {
			code.WriteString(text)
		}
	}
	for _, quoted := range regexp.MustCompile("`([^`]*)`").FindAllStringSubmatch(table, -1) {
		line := quoted[1] // or the name of something: one word
		isLine := strings.Contains(line, " ") && !strings.Contains(line, "{")
		if isLine && !strings.Contains(code.String(), line) {
			t.Errorf("the code never logs %q", line)
		}
	}
}
