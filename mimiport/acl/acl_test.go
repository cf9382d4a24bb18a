package acl

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// TestAllows has one row for each rule of the specification: an ACL, servers that it allows, and servers that it
// denies.
func TestAllows(t *testing.T) {
	for name, c := range map[string]struct{ content, allows, denies string }{
		"whole name, denied":  {`{"allow":["*"],"deny":["ocalhos"]}`, "localhost localhost:8448", "ocalhos"},
		"whole name, allowed": {`{"allow":["good.example"]}`, "good.example", "good.example.b.example notgood.example"},
		"a dot is a dot":      {`{"allow":["good.example"]}`, "", "goodxexample"},
		"deny goes first":     {`{"allow":["a.example"],"deny":["a.example"]}`, "", "a.example"},
		"not listed":          {`{"allow":["a.example"]}`, "", "b.example"},
		"the port":            {`{"allow":["*"],"deny":["a.example"]}`, "b.example:1", "a.example a.example:8448"},
		"a port in a pattern": {`{"allow":["*"],"deny":["a.example:8448"]}`, "a.example:8448", ""},
		"case, denied":        {`{"allow":["*"],"deny":["Evil.EXAMPLE"]}`, "", "evil.example EVIL.example"},
		"case, allowed":       {`{"allow":["Good.EXAMPLE"]}`, "good.example GOOD.example", ""},
		"a star":              {`{"allow":["*"],"deny":["*.b.example"]}`, "b.example", "a.b.example a.a.b.example"},
		"stars":               {`{"allow":["*a*b*"]}`, "ab xaxbx", "ba a"},
		"a question mark":     {`{"allow":["a?.example"]}`, "ab.example a-.example", "a.example abc.example"},
		"a question after *":  {`{"allow":["*?"]}`, "a abc", ""},
		"IPv4":                {`{"allow":["*"],"allow_ip_literals":false}`, "1.example", "127.0.0.1 127.0.0.1:8448"},
		"IPv6":                {`{"allow":["*"],"allow_ip_literals":false}`, "a.example", "[::1] [::1]:8448"},
		"IP literals allowed": {`{"allow":["*"]}`, "127.0.0.1 [::1]:8448", ""},
		"an IPv6 pattern":     {`{"allow":["*"],"deny":["[FE80::*]"]}`, "[fe81::1]", "[fe80::1] [fe80::1]:8448"},
		"keys are exact":      {`{"allow":["*"],"Deny":["*"],"ALLOW":[]}`, "a.example", ""},
		"no names":            {`{"allow":["*"]}`, "", ":8448 [::1 é.example " + strings.Repeat("a", 256)},
	} {
		t.Run(name, func(t *testing.T) {
			a := Parse([]byte(c.content))
			for _, server := range strings.Fields(c.allows) {
				if !a.Allows(server) {
					t.Errorf("%q is denied", server)
				}
			}
			for _, server := range strings.Fields(c.denies) {
				if a.Allows(server) {
					t.Errorf("%q is allowed", server)
				}
			}
		})
	}
	if a := Parse([]byte(`{"allow":["*"]}`)); a.Allows("") || a.Allows("a b") {
		t.Error("an invalid server name is allowed")
	}
}

// TestMalformed: Parse reads malformed content as other homeservers do. Otherwise a room would have different ACLs on
// different servers.
func TestMalformed(t *testing.T) {
	for _, content := range []string{
		``, `{}`, `null`, `[]`, `"*"`, `{"allow":["*"]`, `{"allow":"*"}`, `{"allow":{"*":true}}`,
		`{"allow":[1,null,["*"]]}`,
	} {
		if a := Parse([]byte(content)); a.Allows("a.example") {
			t.Errorf("%s allows a server", content)
		}
	}
	a := Parse([]byte(`{"allow":["*",5],"deny":[null,"evil.example"],"allow_ip_literals":"no"}`))
	for server, want := range map[string]bool{"a.example": true, "127.0.0.1": true, "evil.example": false} {
		if a.Allows(server) != want {
			t.Errorf("%s: %v", server, !want)
		}
	}
	for _, content := range []string{
		`{"allow":["*"],"deny":"127.0.0.1"}`, `{"allow":["*"],"allow_ip_literals":null}`,
	} {
		if a := Parse([]byte(content)); !a.Allows("127.0.0.1") {
			t.Errorf("%s denies a server", content)
		}
	}
}

func TestRedacted(t *testing.T) {
	for content, want := range map[string]bool{
		`{}`: true, ` { } `: true,
		``: false, `null`: false, `[]`: false, `{"allow":[]}`: false, `{"allow":["*"]}`: false,
	} {
		if Redacted([]byte(content)) != want {
			t.Errorf("%q: %v", content, !want)
		}
	}
}

// FuzzAllows compares an ACL of one pattern, on either list, with a regular expression. It also parses arbitrary
// content.
func FuzzAllows(f *testing.F) {
	f.Add("ocalhos", "localhost:8448", []byte(`{}`))
	f.Add("*.a?c*", "x.abc", []byte(`{"allow":["*"],"deny":[1,"a*"],"allow_ip_literals":false}`))
	f.Add("**?*[::1]", "[::1]:1", []byte(`[`))
	f.Fuzz(func(t *testing.T, pattern, server string, content []byte) {
		a := Parse(content)
		a.Allows(server)
		quoted, err := json.Marshal(pattern)
		if err != nil {
			t.Fatal(err)
		}
		listed := Parse(fmt.Appendf(nil, `{"allow":[%s]}`, quoted))
		banned := Parse(fmt.Appendf(nil, `{"allow":["*"],"deny":[%s]}`, quoted))
		valid := mimiport.ValidateServerName(server) == nil
		want := valid && reference(quoted, server)
		if listed.Allows(server) != want || banned.Allows(server) != (valid && !want) {
			t.Errorf("%q and %q: match is %v", pattern, server, !want)
		}
	})
}

var port = regexp.MustCompile(`:[0-9]*$`)

func reference(quoted []byte, server string) bool {
	var pattern string
	if err := json.Unmarshal(quoted, &pattern); err != nil {
		panic(err)
	}
	expression := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(strings.ToLower(pattern)))
	host := strings.ToLower(port.ReplaceAllString(server, ""))
	return regexp.MustCompile(`(?s)^(?:` + expression + `)$`).MatchString(host)
}

// contents returns two ACLs, each with a server name to match: a list as public rooms have it, and the slowest
// patterns that fit into an event.
func contents() map[string][2]string {
	listed, worst := make([]string, 1000), make([]string, 450)
	for i := range listed {
		listed[i] = fmt.Sprintf("*.evil%d.example", i)
	}
	for i := range worst {
		worst[i] = "*" + strings.Repeat("a", 125) + "b"
	}
	content := func(deny []string) string {
		data, err := json.Marshal(map[string]any{"allow": []string{"*"}, "deny": deny})
		if err != nil {
			panic(err)
		}
		return string(data)
	}
	return map[string][2]string{
		"1000 patterns": {content(listed), "matrix.good.example:8448"},
		"hostile":       {content(worst), strings.Repeat("a", 250)},
	}
}

func BenchmarkParse(b *testing.B) {
	for name, c := range contents() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(c[0])))
			for b.Loop() {
				Parse([]byte(c[0]))
			}
		})
	}
}

func BenchmarkAllows(b *testing.B) {
	for name, c := range contents() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			a := Parse([]byte(c[0]))
			for b.Loop() {
				if !a.Allows(c[1]) {
					b.Fatal("denied")
				}
			}
		})
	}
}
