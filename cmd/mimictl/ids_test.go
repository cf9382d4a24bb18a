package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// TestIDsWithHyphens: a command takes each id, also one that begins with one or two hyphens and reads like a flag. It
// may come before flags, after them, or as the value of one.
func TestIDsWithHyphens(t *testing.T) {
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.String()
		_, _ = w.Write([]byte(`{}`))
	}))
	defer server.Close()
	t.Setenv("MIMICTL_SERVER", server.URL)
	t.Setenv("MIMICTL_TOKEN", "token")
	for _, begin := range []string{"A", "-A", "--A", "-8", "---"} {
		id := begin + strings.Repeat("A", 43-len(begin))
		if _, err := mimiport.ParseBase64URL(id); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			"groups show ID -json", "groups show -json ID", "groups show -- ID", "migrations list -group ID",
			"migrations list -state frozen --group ID -json", "migrations list -group=ID -json", "evidence ID",
		} {
			asked = ""
			args := strings.Fields(strings.ReplaceAll(line, "ID", id))
			var out, notes bytes.Buffer
			status := run(args, stdio{strings.NewReader(""), &out, &notes, testTime})
			if status != statusDone || !slices.Contains(strings.FieldsFunc(asked, isBetween), id) {
				t.Errorf("mimictl %s: status %d, asked %s: %s", args, status, asked, &notes)
			}
		}
	}
}

// isBetween reports whether a character of a URL ends a word.
func isBetween(r rune) bool { return strings.ContainsRune("/?&=", r) }
