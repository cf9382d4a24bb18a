package main

import (
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// TestDecodeMLS: decode shows all fields of each kind of MLSMessage in order, with the elements of lists.
func TestDecodeMLS(t *testing.T) {
	m := mlstest.New(mlstest.Options{
		Seed: 1, GroupID: []byte("group"), Members: [][]byte{[]byte("a"), []byte("b"), []byte("c")},
		Extensions: []byte{0xff, 0x01, 1, 0xab},
	})
	bob := m.NewClient(mlstest.Identity("@bob:example.org", "BOB"))
	c := m.Commit(mlstest.CommitOptions{Proposals: []*mlstest.Proposal{m.Add(bob)}, Path: true})
	for name, want := range map[string]struct {
		message []byte
		parts   []string
	}{
		"commit": {c.Message, []string{
			`"Public":{"WireFormat":1,"Content":{"GroupID":"67726f7570","Epoch":0,`, `"ContentType":3`, `"Add":{`,
			`"Path":{"Leaf":{`, `"CipherSuites":[1,2,3,4,5,6,7,10794]`, `"Count":1`,
		}},
		"group info": {c.GroupInfo, []string{
			`{"Version":1,"WireFormat":4,"GroupInfo":{"Context":`, `"Epoch":1`,
			`"Extensions":[{"Type":65281,"Data":"ab"}]`, `"Signer":0`,
		}},
		"welcome":     {c.Welcome, []string{`"Secrets":[{"NewMember":"`}},
		"key package": {bob.KeyPackage(), []string{`"Lifetime":{"NotBefore":1700000000,"NotAfter":4000000000}`}},
		"application": {m.Application(nil, 10), []string{`"AuthenticatedData":"",`, `"Ciphertext":"`}},
	} {
		text := mustRun(t, want.message, "decode", "-json", "-")
		for _, part := range want.parts {
			if !strings.Contains(text, part) {
				t.Errorf("%s lacks %s: %s", name, part, text)
			}
		}
		if strings.Contains(text, "null") || strings.Contains(text, "Raw") {
			t.Errorf("%s shows a variant that is absent, or an encoding twice: %s", name, text)
		}
	}
}
