// Package acl reads the server ACL of a room and matches server names with it (Matrix specification, client-server API,
// m.room.server_acl). No I/O, no state.
package acl

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// EventType is the type of the state event, with an empty state key, that holds a room's server ACL.
const EventType = "m.room.server_acl"

// ACL is the content of an m.room.server_acl event. The zero value denies every server.
type ACL struct {
	allow, deny    []string // patterns in lower case
	denyIPLiterals bool
}

// Parse reads the content of an m.room.server_acl event. It reads malformed content as other homeservers do: a list
// that is none is empty, an entry that is not a string is passed over, and a switch that is not a boolean has its
// default. So content that cannot be read at all denies every server.
func Parse(content []byte) ACL {
	fields := object(content)
	literals := true
	if json.Unmarshal(fields["allow_ip_literals"], &literals) != nil {
		literals = true
	}
	return ACL{allow: patterns(fields["allow"]), deny: patterns(fields["deny"]), denyIPLiterals: !literals}
}

// Redacted says whether content is what a redaction leaves of an m.room.server_acl event: an empty object, which would
// deny every server.
func Redacted(content []byte) bool {
	fields := object(content)
	return fields != nil && len(fields) == 0
}

// object is nil for what is no JSON object. A map tells "Allow" from "allow", which a struct does not.
func object(content []byte) (fields map[string]json.RawMessage) {
	if json.Unmarshal(content, &fields) != nil {
		return nil
	}
	return fields
}

func patterns(list json.RawMessage) (found []string) {
	var entries []any
	if json.Unmarshal(list, &entries) != nil {
		return nil
	}
	for _, entry := range entries {
		if pattern, ok := entry.(string); ok {
			found = append(found, strings.ToLower(pattern))
		}
	}
	return found
}

// Allows says whether the ACL lets a server in. The port does not count, nor does case (MSC4436); an IPv6 literal is
// matched with its brackets. It lets in nothing that is not a valid server name. The time is linear in the size of the
// ACL.
func (a *ACL) Allows(server string) bool {
	if mimiport.ValidateServerName(server) != nil || a.denyIPLiterals && mimiport.IsIPLiteral(server) {
		return false
	}
	host, _, _ := spec.ParseAndValidateServerName(spec.ServerName(server))
	name := newName(strings.ToLower(host))
	return !slices.ContainsFunc(a.deny, name.matches) && slices.ContainsFunc(a.allow, name.matches)
}

// name is a host of at most 255 bytes, ready to be matched with many patterns.
type name struct {
	length int
	every  places      // of all its bytes
	of     [256]places // of each byte value
}

func newName(host string) *name {
	n := &name{length: len(host)}
	for i := range len(host) {
		n.every.add(i)
		n.of[host[i]].add(i)
	}
	return n
}

// matches says whether a pattern is the whole name: * is any number of bytes, ? is one. It follows all the places in
// the name that the pattern read so far may have come to at once, so that no pattern makes it go back.
func (n *name) matches(pattern string) bool {
	var at places
	at.add(0)
	for i := range len(pattern) {
		switch pattern[i] {
		case '*':
			at.fill()
		case '?':
			at.step(&n.every)
		default:
			at.step(&n.of[pattern[i]])
		}
		if at == (places{}) {
			return false
		}
	}
	return at.has(n.length)
}

// places is a set of places in a name, its end included.
type places [4]uint64

func (p *places) add(i int)      { p[i/64] |= 1 << (i % 64) }
func (p *places) has(i int) bool { return p[i/64]>>(i%64)&1 == 1 }

// fill adds all places after the first.
func (p *places) fill() {
	for i := range p {
		if p[i] != 0 {
			p[i] |= -p[i]
			for i++; i < len(p); i++ {
				p[i] = ^uint64(0)
			}
			return
		}
	}
}

// step keeps the places of a byte that is there, and goes on to the next ones.
func (p *places) step(there *places) {
	var carry uint64
	for i := range p {
		here := p[i] & there[i]
		p[i] = here<<1 | carry
		carry = here >> 63
	}
}
