package houserules

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// maxColumns is the largest number of characters in a line. A tab counts as one.
const maxColumns = 120

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

// TestColumns fails for a file with a line that is too long.
func TestColumns(t *testing.T) {
	for path, text := range files(t, ".go", ".ts", ".mjs", ".js", ".css", ".md", ".sh", ".yaml", ".ci/run") {
		if number := longLine(path, text); number > 0 {
			t.Errorf("%s:%d has more than %d columns", path, number, maxColumns)
		}
	}
}
