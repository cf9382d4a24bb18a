package draft09_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	gomls "github.com/cisco/go-mls"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/internal/framing"
)

// fuzzGroup is a small group with a blank, an unmerged leaf and parents, as the engine has it after some proposals, and Commits for it.
func fuzzGroup(t testing.TB) (m *members, g mls.Group, messages [][]byte) {
	m = newMembers(t, 1, []byte("group"), 5)
	m.Commit(3, nil, m.Remove(0, 1), m.Remove(0, 2))
	m.Advance()
	m.Commit(3, nil, m.Add(0))
	m.Advance()
	add, update, remove := m.Add(0), m.Update(1), m.Remove(0, 4)
	g = proposeAll(t, m.open(), add, update, remove)
	return m, g, [][]byte{
		add, update, remove, m.Commit(0, nil, add).Message, m.Commit(0, nil, add, update, remove).Message, m.Commit(3, []byte("aad")).Message,
	}
}

// checkTyped fails for an error that is not one of what a client can do wrong.
func checkTyped(t *testing.T, err error) {
	t.Helper()
	var typed *mimiport.Error
	if err != nil && (!errors.As(err, &typed) || typed.Kind == mimiport.KindInternal) {
		t.Fatalf("an error without a kind: %v", err)
	}
}

// FuzzMessage decodes any message. What decodes must encode identically.
func FuzzMessage(f *testing.F) {
	m, _, messages := fuzzGroup(f)
	for _, seed := range append(messages, m.GroupInfo(), m.KeyPackage(), m.Application(0), m.Commit(0, nil, messages[0]).Welcome) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		_, parseErr := draft09.New().Parse(data)
		checkTyped(t, parseErr)
		decoded, err := framing.Decode(data)
		if err != nil {
			if parseErr == nil {
				t.Fatal("read what does not decode")
			}
			return
		}
		for _, again := range encodings(decoded) {
			if !bytes.Equal(again, data) {
				t.Fatalf("encodes to %x, not %x", again, data)
			}
		}
	})
}

// encodings is the encoding of the field that is set.
func encodings(m *framing.Message) (out [][]byte) {
	add := func(v any, set bool) {
		if encoded, err := framing.Encode(v); set && err == nil {
			out = append(out, encoded)
		}
	}
	add(m.Plaintext, m.Plaintext != nil)
	return out
}
