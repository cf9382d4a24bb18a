package houserules

import (
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

// maxColumns is how many characters a line has at most; a tab is one.
const maxColumns = 120

// longLines names the files that were there before the rule, one a line. It only shrinks.
const longLines = "testdata/longlines.txt"

// longLine is the number of the first line of a text that is too long, 0 for none. A row of a table in Markdown may be.
func longLine(path, text string) (number int) {
	for line := range strings.Lines(text) {
		number++
		row := strings.HasSuffix(path, ".md") && strings.HasPrefix(strings.TrimSpace(line), "|")
		if !row && utf8.RuneCountInString(strings.TrimRight(line, "\n")) > maxColumns {
			return number
		}
	}
	return 0
}

// TestColumns fails when a file has a line that is too long and is not exempt, and when an exempt file no longer has
// one.
func TestColumns(t *testing.T) {
	list, err := os.ReadFile(longLines)
	if err != nil {
		t.Fatal(err)
	}
	exempt := make(map[string]bool)
	for _, path := range strings.Fields(string(list)) {
		exempt[path] = true
	}
	for path, text := range files(t, ".go", ".ts", ".mjs", ".md", ".sh", ".ci/run") {
		if number := longLine(path, text); number > 0 && !exempt[path] {
			t.Errorf("%s:%d has more than %d columns", path, number, maxColumns)
		} else if number > 0 {
			delete(exempt, path)
		}
	}
	for path := range exempt {
		t.Errorf("%s no longer has a line of more than %d columns: delete it from %s", path, maxColumns, longLines)
	}
}

// TestLongLine: lines count in characters, and only Markdown has rows of tables.
func TestLongLine(t *testing.T) {
	full := strings.Repeat("é", maxColumns)
	for _, c := range []struct {
		path, text string
		want       int
	}{
		{"a.go", "x\n" + full + "\n", 0},
		{"a.go", "x\n" + full + "x\n", 2},
		{"a.md", "x\n\n" + full + "x", 3},
		{"a.md", " | " + full + " |\n", 0},
		{"a.go", " | " + full + " |\n", 1},
	} {
		if got := longLine(c.path, c.text); got != c.want {
			t.Errorf("%s of %d bytes: line %d, not %d", c.path, len(c.text), got, c.want)
		}
	}
}
