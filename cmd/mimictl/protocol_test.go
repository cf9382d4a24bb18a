package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/draft09test"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// draft09Member makes the only member of a new group of go-mls.
func draft09Member(t *testing.T) *draft09test.Client {
	t.Helper()
	c, err := draft09test.NewClient(1, mlstest.Identity("@a:a.example", "A"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create([]byte("group")); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestDraft09: with -protocol mls-draft09 the commands replay, verify and decode a group of go-mls. They refuse a
// group of RFC 9420.
func TestDraft09(t *testing.T) {
	c := draft09Member(t)
	info, err := c.GroupInfo()
	if err != nil {
		t.Fatal(err)
	}
	commit, err := c.Commit([]byte("aad"))
	if err != nil {
		t.Fatal(err)
	}
	c.Merge()
	recording := fmt.Appendf(nil, `{"group_info":"%x","messages":["%x"]}`, info, commit.Message)
	for _, step := range []struct {
		command string
		input   []byte
		want    []string
	}{
		{"mls replay", recording, []string{
			`"kind":"commit","epoch":1`, hex.EncodeToString(c.ConfirmedTranscriptHash()), `"error":""`,
		}},
		{"mls verify", commit.GroupInfo, []string{"  epoch: 1\n", "user_id: @a:a.example\n"}},
		{"decode", commit.Message, []string{
			"MLSMessage\n", "  protocol: mls-draft09\n", "  kind: commit\n", "  authenticated_data: 616164\n",
		}},
	} {
		words := append(strings.Fields(step.command), "-protocol", draft09.Protocol, "-")
		got := mustRun(t, step.input, words...)
		for _, want := range step.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in:\n%s", step.command, want, got)
			}
		}
		var out, stderr bytes.Buffer
		args := append(strings.Fields(step.command), "-")
		if status := run(args, stdio{bytes.NewReader(step.input), &out, &stderr, testTime}); status != 1 {
			t.Errorf("%s of a group of RFC 9420: status %d: %s", step.command, status, &stderr)
		}
	}
}
