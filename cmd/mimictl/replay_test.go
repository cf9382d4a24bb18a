package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// testTime is after the lifetime of all key packages of mlstest.
var testTime = time.Unix(5_000_000_000, 0)

// TestReplay replays a proposal, a Commit that references it, a Commit that was changed, a message of an earlier
// epoch, and an encrypted Commit ("Handshakes must be PublicMessage", profile, section 9). A refused message leaves
// the group as it was.
func TestReplay(t *testing.T) {
	before := mlstest.New(mlstest.Options{
		GroupID: []byte("group"), Epoch: 4,
		Members: [][]byte{
			mlstest.Identity("@a:a.example", "A"), mlstest.Identity("@b:b.example", "B"), mlstest.Identity("@c:a.example", "C"),
		},
	})
	proposal := before.Propose(0, before.Remove(2))
	commit := before.Commit(mlstest.CommitOptions{Sender: 1, References: [][]byte{proposal}})
	after := commit.Next
	tampered := after.Commit(mlstest.CommitOptions{Sender: 0, Path: true}).Message
	tampered[len(tampered)-100] ^= 1 // in the signature

	encrypted := after.Application(nil, 20)
	encrypted[len("..")+len("..")+len(".group")+8] = 3 // content_type: a Commit, which only members could check

	got := replay(t, before,
		base64.RawStdEncoding.EncodeToString(proposal),
		base64.URLEncoding.EncodeToString(commit.Message),
		hex.EncodeToString(tampered),
		hex.EncodeToString(before.Application(nil, 20)),
		hex.EncodeToString(after.Application(nil, 20)),
		hex.EncodeToString(commit.GroupInfo),
		hex.EncodeToString(encrypted),
		"00",
	)
	for i, want := range []struct {
		kind    string
		group   *mlstest.Group
		refused bool
	}{
		{"proposal", before, false}, {"commit", after, false}, {"commit", after, true}, {"application", after, true},
		{"application", after, false}, {"group_info", after, false}, {"unknown", after, true}, {"unknown", after, true},
	} {
		g, err := mls.RFC9420(mls.DefaultLimits()).Open(want.group.GroupInfo(), want.group.RatchetTree())
		if err != nil {
			t.Fatal(err)
		}
		line := replayed{
			Index: i, Kind: want.kind, Epoch: g.Epoch(), TreeHash: hex.EncodeToString(g.TreeHash()),
			ConfirmedTranscriptHash: hex.EncodeToString(g.ConfirmedTranscriptHash()),
			Members:                 g.NumMembers(), Error: got[i].Error,
		}
		if got[i] != line || (got[i].Error != "") != want.refused {
			t.Errorf("got %+v, want %+v, refused %v", got[i], line, want.refused)
		}
	}
}

// TestReplayCases replays small inputs for which a mistake in a Delivery Service is likely. It checks which message is
// refused, and by which rule.
func TestReplayCases(t *testing.T) {
	for name, rules := range map[string][]string{
		"01-duplicate-add":                             {"device-unique"},
		"02-update-to-alices-identity":                 {"successor", "proposal-reference"},
		"03-reinit-then-commit":                        {"", "group-closed", "group-closed"},
		"04-expired-key-package":                       {""}, // a log may be replayed at any time
		"05-self-remove":                               {""},
		"06-key-package-extension-not-in-capabilities": {""}, // as clients built on mlspp send it
	} {
		var out bytes.Buffer
		file := filepath.Join("testdata", "cases", name+".json")
		if err := replayFile(engines[mls.ProtocolMLS10], file, stdio{out: &out}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		decoder := json.NewDecoder(&out)
		for i, rule := range rules {
			var line replayed
			if err := decoder.Decode(&line); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if (line.Error == "") != (rule == "") || !strings.Contains(line.Error, rule) {
				t.Errorf("%s: message %d: %q, want rule %q", name, i, line.Error, rule)
			}
		}
		if decoder.More() {
			t.Errorf("%s has more messages", name)
		}
	}
}

// TestReplayRecordings replays groups of ts-mls 1.6.4 clients, with Adds, Removes, paths, a proposal by reference and
// reused leaves. "expected" has the values that the clients computed.
func TestReplayRecordings(t *testing.T) {
	paths, err := filepath.Glob("testdata/recordings/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no recordings (%v)", err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var recorded struct {
			Expected []replayed `json:"expected"`
		}
		if err := json.Unmarshal(data, &recorded); err != nil {
			t.Fatal(err)
		}
		got := readLines(t, mustRun(t, nil, "mls", "replay", path))
		if len(got) == 0 || !slices.Equal(got, recorded.Expected) {
			t.Errorf("%s: got %+v, want %+v", path, got, recorded.Expected)
		}
	}
}

// replay runs mls replay on a group and messages, and returns its lines.
func replay(t *testing.T, g *mlstest.Group, messages ...string) []replayed {
	t.Helper()
	input, err := json.Marshal(map[string]any{
		"group_info":   hex.EncodeToString(g.GroupInfo()),
		"ratchet_tree": base64.StdEncoding.EncodeToString(g.RatchetTree()),
		"messages":     messages,
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := readLines(t, mustRun(t, input, "mls", "replay", "-"))
	if len(lines) != len(messages) {
		t.Fatalf("%d lines for %d messages", len(lines), len(messages))
	}
	return lines
}

func readLines(t *testing.T, text string) (lines []replayed) {
	t.Helper()
	for line := range strings.Lines(text) {
		var r replayed
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, r)
	}
	return lines
}

// mustRun runs a command on an input and returns its output. The command must succeed.
func mustRun(t *testing.T, input []byte, args ...string) string {
	t.Helper()
	var out, stderr bytes.Buffer
	if status := run(args, stdio{bytes.NewReader(input), &out, &stderr, testTime}); status != 0 {
		t.Fatalf("status %d: %s", status, &stderr)
	}
	return out.String()
}

func TestVerify(t *testing.T) {
	g := mlstest.New(mlstest.Options{
		GroupID: []byte{0xab}, Epoch: 4,
		Members: [][]byte{mlstest.Identity("@a:a.example", "A"), []byte("no Matrix device")},
	})
	input := fmt.Sprintf(`{"group_info":"%x","ratchet_tree":"%x"}`, g.GroupInfo(), g.RatchetTree())
	got := mustRun(t, []byte(input), "mls", "verify", "-")
	for _, want := range []string{
		"Group\n  group_id: ab\n  epoch: 4\n  cipher_suite: 1\n", "  expired_leaves: 2\n",
		"      leaf: 0\n      user_id: @a:a.example\n      device_id: A\n", "      leaf: 1\n      user_id: \"\"\n",
		"lifetime: expired\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	var out, stderr bytes.Buffer
	identity := func(user string) string { return fmt.Sprintf("%x", mlstest.Identity(user, "A")) }
	broken := strings.Replace(input, identity("@a:a.example"), identity("@e:a.example"), 1)
	status := run([]string{"mls", "verify", "-"}, stdio{strings.NewReader(broken), &out, &stderr, testTime})
	if status != 1 {
		t.Errorf("a leaf with a changed identity: status %d: %s", status, &stderr)
	}
	if !strings.Contains(stderr.String(), "tree-hash") {
		t.Errorf("the error does not name the failed check: %s", &stderr)
	}
}

func TestDecodeMLSMessage(t *testing.T) {
	g := mlstest.New(mlstest.Options{GroupID: []byte{0xab}, Members: [][]byte{mlstest.Identity("@a:a.example", "A")}})
	for _, message := range [][]byte{g.GroupInfo(), g.Propose(0, g.PSK([]byte("id"))), g.Application(nil, 10)} {
		got := mustRun(t, message, "decode", "-")
		if !strings.HasPrefix(got, "MLSMessage\n") || !strings.Contains(got, "GroupID: ab\n") {
			t.Errorf("decoded as:\n%s", got)
		}
	}
}
