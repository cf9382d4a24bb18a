package main

import (
	"strings"
	"testing"
)

// document is a short answer of govulncheck.
const document = `{"@context": "https://openvex.dev/ns/v0.2.0", "statements": [
	{"vulnerability": {"name": "GO-1", "description": "bad", "aliases": ["CVE-1"]},
	 "products": [{"@id": "Unknown Product", "subcomponents": [{"@id": "pkg:golang/m@v1"}]}], "status": "affected"},
	{"vulnerability": {"name": "GO-2"}, "status": "not_affected", "justification": "vulnerable_code_not_present"}]}`

func TestFindings(t *testing.T) {
	found, err := findings([]byte(document))
	if err != nil || len(found) != 1 || found["GO-1"] != "bad [CVE-1] [{[{pkg:golang/m@v1}]}]" {
		t.Errorf("got %v, %v", found, err)
	}
	for name, bad := range map[string]string{
		"not JSON":       "x",
		"empty":          `{"statements": []}`,
		"another status": strings.Replace(document, `"affected"`, `"under_investigation"`, 1),
	} {
		if _, err := findings([]byte(bad)); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestJudge(t *testing.T) {
	one, two := map[string]string{"GO-1": "bad"}, map[string]string{"GO-1": "bad", "GO-2": "worse"}
	for _, c := range []struct {
		name           string
		found, allowed map[string]string
		want           string // part of the error; empty for none
	}{
		{"nothing", nil, nil, ""},
		{"allowed", one, one, ""},
		{"new", two, one, "GO-2: worse: raise"},
		{"gone", one, two, "GO-2 is allowed, but not found"},
		{"allowed without a reason", one, map[string]string{"GO-1": ""}, "GO-1: bad: raise"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := judge(c.found, c.allowed)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}
