// Package acl reads the server ACL of a room and matches server names with it (Matrix specification, client-server API,
// m.room.server_acl). It does no I/O and keeps no state.
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

// Parse reads the content of an m.room.server_acl event. It reads malformed content as other homeservers do. It takes a
// field that is not a list as an empty list, skips an entry that is not a string, and takes the default for
// allow_ip_literals when that is not a boolean. So content that is not JSON denies every server.
func Parse(content []byte) ACL {
	fields := object(content)
	literals := true
	if json.Unmarshal(fields["allow_ip_literals"], &literals) != nil {
		literals = true
	}
	return ACL{allow: patterns(fields["allow"]), deny: patterns(fields["deny"]), denyIPLiterals: !literals}
}

// Redacted reports whether content is an empty object. A redaction leaves such content of an m.room.server_acl event.
// As an ACL it would deny every server.
func Redacted(content []byte) bool {
	fields := object(content)
	return fields != nil && len(fields) == 0
}

// object decodes a JSON object. It returns nil for any other content. The result is a map because decoding into a
// struct would take "Allow" for "allow".
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

// Allows reports whether the ACL allows a server. It ignores the port and the case of letters (MSC4436). It matches an
// IPv6 literal with its brackets. It denies every string that is not a valid server name. The time is linear in the
// size of the ACL.
func (a *ACL) Allows(server string) bool {
	if mimiport.ValidateServerName(server) != nil || a.denyIPLiterals && mimiport.IsIPLiteral(server) {
		return false
	}
	host, _, _ := spec.ParseAndValidateServerName(spec.ServerName(server))
	name := newName(strings.ToLower(host))
	return !slices.ContainsFunc(a.deny, name.matches) && slices.ContainsFunc(a.allow, name.matches)
}

// Matches reports whether one of the patterns matches a server's name, with or without its port. * stands for any
// number of bytes, ? for one byte, and the case of letters does not matter. An invalid name matches nothing.
func Matches(patterns []string, server string) bool {
	if len(patterns) == 0 || mimiport.ValidateServerName(server) != nil {
		return false
	}
	host, _, _ := spec.ParseAndValidateServerName(spec.ServerName(server))
	full, short := newName(strings.ToLower(server)), newName(strings.ToLower(host))
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		pattern = strings.ToLower(pattern)
		return full.matches(pattern) || short.matches(pattern)
	})
}

// ValidatePattern fails unless a pattern for Matches can match a server name. The error is KindBadMessage.
func ValidatePattern(pattern string) error {
	name := strings.NewReplacer("*", "a", "?", "a").Replace(pattern)
	if err := mimiport.ValidateServerName(name); err != nil {
		return mimiport.Errorf("read pattern", mimiport.KindBadMessage,
			"%q is not a server name: write it as in user ids, such as b.example or *.b.example", mimiport.Clip(pattern))
	}
	return nil
}

// name is a host of at most 255 bytes in a form that is fast to match with many patterns.
type name struct {
	length int
	every  places      // the places of all bytes
	of     [256]places // the places of each byte value
}

func newName(host string) *name {
	n := &name{length: len(host)}
	for i := range len(host) {
		n.every.add(i)
		n.of[host[i]].add(i)
	}
	return n
}

// matches reports whether a pattern matches the whole name. * stands for any number of bytes, ? for one byte. matches
// keeps the set of all places in the name that the pattern so far can reach, so it never backtracks.
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

// places is a set of places in a name. The end of the name is a place too.
type places [4]uint64

func (p *places) add(i int)      { p[i/64] |= 1 << (i % 64) }
func (p *places) has(i int) bool { return p[i/64]>>(i%64)&1 == 1 }

// fill adds all places after the first one in the set.
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

// step drops the places that are not in there, and moves each other place forward by one.
func (p *places) step(there *places) {
	var carry uint64
	for i := range p {
		here := p[i] & there[i]
		p[i] = here<<1 | carry
		carry = here >> 63
	}
}
