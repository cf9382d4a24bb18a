package api_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// An id has the same text in JSON and in a path: base64url, in exactly one form for the same bytes.
func TestGroupID(t *testing.T) {
	var b api.Binding
	if err := json.Unmarshal([]byte(`{"group_id":"-_8D"}`), &b); err != nil || string(b.GroupID) != "\xfb\xff\x03" {
		t.Errorf("%x: %v", b.GroupID, err)
	}
	if text, err := json.Marshal(b); err != nil || !strings.Contains(string(text), `"group_id":"-_8D"`) {
		t.Errorf("%s: %v", text, err)
	}
	for _, id := range []string{"", "+/8D", "-_8=", "AB", "A", "AQ\\n", strings.Repeat("AAAA", 86)} {
		if err := json.Unmarshal([]byte(`{"group_id":"`+id+`"}`), &b); err == nil {
			t.Errorf("%q is taken for %x", id, b.GroupID)
		}
	}
}
