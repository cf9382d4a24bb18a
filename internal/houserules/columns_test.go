package houserules

import (
	"os"
	"strings"
	"testing"
	"unicode/utf8"
)

// maxColumns is the largest number of characters in a line. A tab counts as one.
const maxColumns = 120

// longLines names the files from before the rule that may have long lines, one on each line. The list only shrinks.
const longLines = "testdata/longlines.txt"

// longLine returns the number of the first line that is too long, 0 for none. It ignores rows of tables in Markdown.
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

// TestColumns fails for a file with a line that is too long, unless the file is exempt. It also fails for an exempt
// file without such a line.
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

// TestLongLine: longLine counts characters, and ignores rows of tables only in Markdown.
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
