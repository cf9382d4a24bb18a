package proof

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Origin says how this server knows a key (profile, section 2). A greater origin proves more.
type Origin uint8

// The origins of keys.
const (
	Presented Origin = iota // the key came with the message
	Known                   // this server has fetched and stored the key object itself, earlier
	Live                    // the server itself or a configured notary publishes the key now
)

// Key is a public key of a server.
type Key struct {
	Public ed25519.PublicKey
	Until  time.Time // the time until which the server signs, or signed, with the key
	Object []byte    // the server's signed key object (JSON) that publishes the key, or nil
}

// Keys returns keys that did not come with the message to verify. Callers pass only valid server names. They make
// several calls at a time.
type Keys interface {
	// Known returns the keys of a server, by their ids, from key objects that this server has fetched and stored itself.
	// It returns no error if there are none.
	Known(ctx context.Context, server string) (map[string]Key, error)

	// Live returns the keys that a server publishes now, by their ids. If the server does not answer, Live returns the
	// keys with the given ids from a notary. It returns a KindPeer error if neither answers. Any other error is this
	// server's own refusal: then no presented key counts instead.
	Live(ctx context.Context, server string, ids []string) (map[string]Key, error)
}

const (
	// MaxKeyObject is the largest size of a server's signed key object, in bytes. An object with one key has about 300
	// bytes.
	MaxKeyObject = 16 << 10

	maxAsked = 8 // most servers to ask for their keys for one message
)

// KeyObject reads the keys of a server, current and old, from its signed key object (Matrix specification,
// server-server API, "Publishing keys"). It returns a KindBadSignature error for an object that is larger than
// MaxKeyObject, is of another server, or is not signed by each current key. Anybody can make such an object in any
// server's name. So the caller must know where the object comes from.
func KeyObject(server string, object []byte) (map[string]Key, error) {
	const op = "read key object"
	if len(object) > MaxKeyObject {
		return nil, mimiport.Errorf(op, mimiport.KindBadSignature, "that of %s has more than %d bytes", server, MaxKeyObject)
	}
	var published gomatrixserverlib.ServerKeys
	if err := plainjson.Unmarshal(object, &published); err != nil {
		return nil, mimiport.Errorf(op, mimiport.KindBadSignature, "that of %s: %w", server, err)
	}
	if checks, _ := gomatrixserverlib.CheckKeys(spec.ServerName(server), time.Unix(0, 0), published); !checks.AllChecksOK {
		const why = "that of %s is another server's or not signed by its keys"
		return nil, mimiport.Errorf(op, mimiport.KindBadSignature, why, server)
	}
	keys := make(map[string]Key)
	add := func(id gomatrixserverlib.KeyID, key gomatrixserverlib.VerifyKey, until spec.Timestamp) {
		if isKeyID(string(id)) && len(key.Key) == ed25519.PublicKeySize {
			keys[string(id)] = Key{Public: ed25519.PublicKey(key.Key), Until: until.Time(), Object: object}
		}
	}
	for id, old := range published.OldVerifyKeys {
		add(id, old.VerifyKey, old.ExpiredTS)
	}
	for id, current := range published.VerifyKeys {
		add(id, current, published.ValidUntilTS)
	}
	return keys, nil
}

// isKeyID reports whether an id is the id of an Ed25519 key that a store can keep: at most 255 visible ASCII
// characters.
func isKeyID(id string) bool {
	visible := !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' })
	return strings.HasPrefix(id, "ed25519:") && len(id) <= 255 && visible
}

// Verify checks the signature of a server on m. The key must be valid at since or later: with the present time as
// since, it must be a current key. least is the least origin that counts, Known or Live. Verify returns the key. It
// returns a KindBadSignature error if the server does not have the key or the signature does not verify, and a KindPeer
// error if the server does not answer.
func Verify(
	ctx context.Context, keys Keys, server, keyID string, m mimiport.Signed, since time.Time, least Origin,
) (*Key, error) {
	if err := mimiport.ValidateServerName(server); err != nil {
		return nil, err
	}
	s := &signature{server: server, signed: &mimiport.SignedMessage{KeyID: keyID}, message: m, least: least}
	if err := inquire(ctx, keys, since, []*signature{s}); err != nil {
		return nil, err
	}
	return s.key, s.err
}

// signature is a signature that must verify, with the result of the check.
type signature struct {
	server  string // the server that must have signed
	signed  *mimiport.SignedMessage
	message mimiport.Signed // signed.Message, decoded
	term    uint64          // the term that the step begins
	decider string          // of an offer: the server that has decided on it
	least   Origin          // the least origin of the key

	key     *Key  // the key that verifies the signature, nil until it is found
	err     error // the reason why there is no key
	refused bool  // final: no presented key counts
}

// try looks for the key among the keys of one origin. It ignores a key that expired before since.
func (s *signature) try(keys map[string]Key, origin Origin, since time.Time) {
	key, ok := keys[s.signed.KeyID]
	if !ok || key.Until.Before(since) {
		s.err = mimiport.Errorf("look up key", mimiport.KindBadSignature, "%s has no key %q", s.server, s.signed.KeyID)
		return
	}
	if s.err = mimiport.Verify(s.message, key.Public); s.err == nil {
		s.key = &key
	} else if origin == Known {
		s.refused = true
	}
}

// in reports whether a step holds the same signature.
func (s *signature) in(step *mimiport.LineageStep) bool {
	for _, own := range []*mimiport.SignedMessage{&step.Response, &step.Confirmation, step.Claim} {
		if own != nil && own.KeyID == s.signed.KeyID && bytes.Equal(own.Message, s.signed.Message) {
			return true
		}
	}
	return false
}

// inquire looks for the keys of signatures: first among the known keys, then at their servers, all at the same time.
// Servers whose keys must be live come first. It returns an error only if the lookup itself fails.
func inquire(ctx context.Context, keys Keys, since time.Time, signatures []*signature) error {
	known := make(map[string]map[string]Key)
	for _, s := range signatures {
		if s.least == Live {
			continue
		}
		if _, ok := known[s.server]; !ok {
			found, err := keys.Known(ctx, s.server)
			if err != nil {
				return err
			}
			known[s.server] = found
		}
		s.try(known[s.server], Known, since)
	}
	var asked sync.WaitGroup
	for i, open := range byServer(signatures) {
		if i >= maxAsked {
			for _, s := range open {
				const why = "this server does not ask %s: it asks at most %d servers"
				s.err = mimiport.Errorf("look up key", mimiport.KindPeer, why, s.server, maxAsked)
			}
			continue
		}
		asked.Go(func() { ask(ctx, keys, since, open) })
	}
	asked.Wait()
	return ctx.Err() // a canceled request proves nothing about servers
}

// byServer lists the signatures without a key, grouped by server. Servers that must give a live key come first.
func byServer(signatures []*signature) (open [][]*signature) {
	place := make(map[string]int)
	for _, least := range []Origin{Live, Known, Presented} {
		for _, s := range signatures {
			if s.key != nil || s.least != least {
				continue
			}
			at, ok := place[s.server]
			if !ok {
				at = len(open)
				place[s.server] = at
				open = append(open, nil)
			}
			open[at] = append(open[at], s)
		}
	}
	return open
}

// ask asks one server for the keys of its signatures.
func ask(ctx context.Context, keys Keys, since time.Time, open []*signature) {
	var ids []string
	for _, s := range open {
		ids = append(ids, s.signed.KeyID)
	}
	live, err := keys.Live(ctx, open[0].server, ids)
	for _, s := range open {
		if err == nil {
			s.try(live, Live, since)
			continue
		}
		s.err = fmt.Errorf("keys of %s: %w", s.server, err)
		s.refused = s.refused || mimiport.KindOf(err) != mimiport.KindPeer
	}
}
