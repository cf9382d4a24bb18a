package policy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
)

// TestPatchRefusals: a wrong patch is refused with the field, its value and the remedy, and without a type of Go.
func TestPatchRefusals(t *testing.T) {
	for patch, want := range map[string][]string{
		`[]`:                             {"[] ", "is not an object"},
		`null`:                           {"null", "is not an object"},
		``:                               {"an empty body"},
		`{"sauce":"nobody"}`:             {"sauce: ", "use one of source, target"},
		`{"Source":"nobody"}`:            {"Source: ", "use one of"},
		`{"source":"everybody"}`:         {`source: "everybody"`, "power_level, any_member, server_admin, nobody"},
		`{"target":7}`:                   {"target: 7 ", "local_users"},
		`{"require_room":"yes"}`:         {`require_room: "yes"`, "true or false"},
		`{"recover":null}`:               {"recover: null", "true or false"},
		`{"preset":"strict"}`:            {`preset: "strict"`, "default or draft"},
		`{"quotas":[]}`:                  {"quotas: []", `{"members": 1000}`},
		`{"quotas":{"grops":1}}`:         {"quotas.grops: ", "use one of groups"},
		`{"quotas":{"groups":-1}}`:       {"quotas.groups: -1 ", "0 is no quota"},
		`{"quotas":{"groups":1.5}}`:      {"quotas.groups: 1.5 ", "whole number"},
		`{"creators":"b.example"}`:       {`creators: "b.example"`, `["b.example"]`},
		`{"deny_servers":[1]}`:           {"deny_servers: [1]", "list of texts"},
		`{"application_services":["x"]}`: {`application_services: "x"`, "such as @irc_*"},
	} {
		_, err := policy.Default().Merge(json.RawMessage(patch))
		if mimiport.KindOf(err) != mimiport.KindBadMessage {
			t.Errorf("%s: %v", patch, err)
			continue
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v: want %s", patch, err, part)
			}
		}
		for _, word := range []string{"policy.", "struct", "unmarshal", "Go "} {
			if strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v: shows %s", patch, err, word)
			}
		}
	}
}

// TestPatterns: a list takes server names and globs as in a room's server ACL, and nothing that can match no server.
func TestPatterns(t *testing.T) {
	for entry, fine := range map[string]bool{
		"b.example": true, "*.b.example": true, "*": true, "b?.example": true, "b.example:8448": true, "1.2.3.4": true,
		"[::1]": true, "https://spam.example": false, "spam.example/": false, "@alice:a.example": false, "": false,
		"spam example": false,
	} {
		for _, field := range []string{"creators", "allow_servers", "deny_servers"} {
			patch, _ := json.Marshal(map[string]any{field: []string{entry}})
			if _, err := policy.Default().Merge(patch); (err == nil) != fine {
				t.Errorf("%s: %v", patch, err)
			}
		}
	}
	for _, test := range []struct {
		pattern, server string
		want            bool
	}{
		{"b.example", "b.example", true}, {"B.example", "b.EXAMPLE", true}, {"b.example", "b.example:8448", true},
		{"b.example:8448", "b.example:8448", true}, {"b.example:8448", "b.example", false},
		{"*.example", "b.example", true}, {"*.example", "example", false}, {"b.example", "bb.example", false},
	} {
		p := policy.Default()
		p.DenyServers = []string{test.pattern}
		f := source(func(f *policy.Facts) { f.Peer = test.server })
		if denied := policy.Decide(&p, f) != nil; denied != test.want {
			t.Errorf("%+v: %v", test, denied)
		}
	}
}

// TestOverlay: later fields win, earlier ones stay, and a preset sets every field.
func TestOverlay(t *testing.T) {
	const first = `{"source":"any_member","quotas":{"groups":5,"members":6},"deny_servers":["a.example"]}`
	for later, want := range map[string]string{
		`{}`: first,
		`{"target":"nobody","quotas":{"groups":7}}`: `{"source":"any_member","target":"nobody",
			"quotas":{"groups":7,"members":6},"deny_servers":["a.example"]}`,
		`{"deny_servers":null}`: `{"source":"any_member","quotas":{"groups":5,"members":6},"deny_servers":null}`,
	} {
		got, err := policy.Overlay(json.RawMessage(first), json.RawMessage(later))
		if err != nil || !sameJSON(t, string(got), want) {
			t.Errorf("%s: %s %v", later, got, err)
		}
	}
	got, err := policy.Overlay(json.RawMessage(first), json.RawMessage(`{"preset":"draft","source":"nobody"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := policy.Draft()
	want.Source = policy.SourceNobody
	section := policy.Default()
	section.Recover = true
	p, err := section.Stored(got)
	if diff := cmp.Diff(want, p); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if all := policy.Fields(got); len(all) != len(section.Values()) {
		t.Errorf("a preset sets %v", all)
	}
	if fields := policy.Fields(json.RawMessage(first)); !cmp.Equal(fields, []string{
		"deny_servers", "quotas.groups", "quotas.members", "source",
	}) {
		t.Errorf("%v", fields)
	}
	if _, err := policy.Overlay(json.RawMessage(first), json.RawMessage(`{"source":1}`)); err == nil {
		t.Error("a wrong patch is stored")
	}
}

// TestStoredIsLenient: a policy that an earlier version has stored stays in force, also if Merge would refuse it now.
func TestStoredIsLenient(t *testing.T) {
	section := policy.Default()
	section.DenyServers = []string{"a.example"}
	p, err := section.Stored(json.RawMessage(`{"deny_servers":["https://spam.example"]}`))
	if err != nil || p.DenyServers[0] != "https://spam.example" || section.DenyServers[0] != "a.example" {
		t.Errorf("%v %v %v", p.DenyServers, section.DenyServers, err)
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal([]byte(a), &x); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(b), &y); err != nil {
		t.Fatal(err)
	}
	return cmp.Equal(x, y)
}
