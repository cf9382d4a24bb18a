package api_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// names returns a JSON list of n server names.
func names(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("s%d.example", i)
	}
	encoded, _ := json.Marshal(list) // strings
	return string(encoded)
}

// TestSuccessors: a list is bounded and has only valid names, each once.
func TestSuccessors(t *testing.T) {
	for servers, ok := range map[string]bool{
		`[]`: true, `["b.example:8448","c.example"]`: true, names(api.MaxSuccessors): true,
		names(api.MaxSuccessors + 1): false, `["b.example","b.example"]`: false, `[""]`: false, `["a/../b"]`: false,
		`"b.example"`: false, `[1]`: false, `null`: false, `{}`: false,
	} {
		l, err := api.UnmarshalSuccessors([]byte(`{"room_id":"!r:a","group_id":"AQ","servers":` + servers + `,"more":1}`))
		if (err == nil) != ok {
			t.Errorf("%.60s: %v", servers, err)
		}
		if err != nil && mimiport.KindOf(err) != mimiport.KindBadMessage {
			t.Errorf("%.60s: kind %d", servers, mimiport.KindOf(err))
		}
		if ok && (!l.Names("!r:a", []byte{1}) || l.Names("!r:b", []byte{1}) || l.Names("!r:a", []byte{2})) {
			t.Errorf("%.60s: names another room or group", servers)
		}
	}
	for _, content := range []string{``, `{}`, `[]`, `null`, `{"servers":["a.example"`, `{"servers":["a.example"]}`} {
		if _, err := api.UnmarshalSuccessors([]byte(content)); err == nil {
			t.Errorf("%q was read", content)
		}
	}
}

// FuzzSuccessors: a decoded list is bounded, and encodes to the same list.
func FuzzSuccessors(f *testing.F) {
	f.Add([]byte(`{"room_id":"!r:a","group_id":"AQ","servers":["b.example"]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		l, err := api.UnmarshalSuccessors(content)
		if err != nil {
			return
		}
		encoded, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		again, err := api.UnmarshalSuccessors(encoded)
		if err != nil || len(l.Servers) > api.MaxSuccessors ||
			strings.Join(l.Servers, " ") != strings.Join(again.Servers, " ") {
			t.Errorf("%q reads as %v, then as %v: %v", content, l, again, err)
		}
	})
}
