package mls

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

func TestDescribe(t *testing.T) {
	m := mlstest.New(mlstest.Options{Seed: 1, GroupID: []byte("group"), Members: identities(3)})
	bob := m.NewClient(mlstest.Identity("@bob:example.org", "BOB"))
	c := m.Commit(mlstest.CommitOptions{Proposals: []*mlstest.Proposal{m.Add(bob)}, Path: true})
	for name, want := range map[string]struct {
		message []byte
		parts   []string
	}{
		"commit": {c.Message, []string{
			`"GroupID":"67726f7570"`, `"ContentType":3`, `"Add":{`, `"Path":{"Leaf":{`, `"CipherSuites":[1,2,3,4,5,6,7,10794]`,
		}},
		"group info":  {c.GroupInfo, []string{`"Epoch":1`, `"Signer":0`}},
		"welcome":     {c.Welcome, []string{`"Secrets":[{"NewMember":"`}},
		"key package": {bob.KeyPackage(), []string{`"Lifetime":{"NotAfter":4000000000,"NotBefore":1700000000}`}},
		"application": {m.Application(nil, 10), []string{`"Ciphertext":"`}},
	} {
		got, err := Describe(want.message)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		text, err := json.Marshal(got)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, part := range want.parts {
			if !strings.Contains(string(text), part) {
				t.Errorf("%s lacks %s: %s", name, part, text)
			}
		}
	}
	if _, err := Describe([]byte{0, 1, 0, 1}); mimiport.KindOf(err) != mimiport.KindBadMessage {
		t.Errorf("a truncated message: %v", err)
	}
}
