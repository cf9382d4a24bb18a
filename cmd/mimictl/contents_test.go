package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestContentVectors: for each valid content, mls verify reports the state that a target stages, and mls replay
// follows it. For each invalid group, mls verify names the broken rule of RFC 9420. The tool does not check the rules
// of the profile.
func TestContentVectors(t *testing.T) {
	data, err := os.ReadFile("../../mimiport/testdata/contents.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Name, Outcome, Rule, Content string
			Staged                       struct {
				TreeHash   string `json:"tree_hash"`
				Transcript string `json:"confirmed_transcript_hash"`
			}
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	profile := map[string]bool{"migration-commit": true, "external-senders": true, "pending-remove": true, "lineage": true}
	staged, broken := 0, 0
	for _, c := range file.Cases {
		var out, stderr bytes.Buffer
		status := run([]string{"mls", "verify", "-"}, stdio{strings.NewReader(c.Content), &out, &stderr, testTime})
		switch {
		case c.Outcome == "staged":
			staged++
			for _, want := range []string{"  epoch: 8\n", c.Staged.TreeHash, c.Staged.Transcript} {
				if status != 0 || !strings.Contains(out.String(), want) {
					t.Errorf("%s: no %q in %s%s", c.Name, want, &out, &stderr)
				}
			}
			lines := readLines(t, mustRun(t, []byte(c.Content), "mls", "replay", "-"))
			if last := lines[len(lines)-1]; last.Kind != "commit" || last.TreeHash != c.Staged.TreeHash {
				t.Errorf("%s: the last line is %+v", c.Name, last)
			}
		case c.Rule != "" && !profile[c.Rule]:
			broken++
			if status != 1 || !strings.Contains(stderr.String(), c.Rule) {
				t.Errorf("%s: status %d, %s, want the rule %s", c.Name, status, &stderr, c.Rule)
			}
		}
	}
	if staged < 2 || broken < 10 {
		t.Errorf("%d hold, %d break a rule of MLS", staged, broken)
	}
}
