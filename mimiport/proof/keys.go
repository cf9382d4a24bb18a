package proof

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Origin is how this server knows a key (profile, section 2). A greater one proves more.
type Origin uint8

// The origins of keys.
const (
	Presented Origin = iota // the key came with the message
	Known                   // this server has fetched and stored the key object itself, earlier
	Live                    // the server itself or a configured notary says so now
)

// Key is a public key of a server.
type Key struct {
	Public ed25519.PublicKey
	Until  time.Time // the server signs with it until then, or has signed
	Object []byte    // the server's signed key object (JSON) that publishes it, nil where there is none
}

// Keys is where keys come from that did not come with the message in question. It is asked for valid server names
// alone, several at a time.
type Keys interface {
	// Known are keys of a server, by their ids: those in key objects that this server has fetched and stored itself. None
	// is no error.
	Known(ctx context.Context, server string) (map[string]Key, error)

	// Live are keys of a server, by their ids, as it publishes them now, or else as a notary gives those with the ids. It
	// returns a KindPeer error where neither can be asked. Any other error is a refusal of this server's own: no presented
	// key counts instead.
	Live(ctx context.Context, server string, ids []string) (map[string]Key, error)
}

const (
	// MaxKeyObject bounds a server's signed key object, in bytes. One with one key has about 300.
	MaxKeyObject = 16 << 10

	maxAsked = 8 // servers that are asked for their keys for one message
)

// KeyObject reads the keys of a server, current and old, from its signed key object (Matrix specification,
// server-server API, "Publishing keys"). It returns a KindBadSignature error for one that is larger than MaxKeyObject,
// another server's, or not signed by each current key. Whoever wants to can make such an object in any server's name:
// the caller knows where it comes from.
func KeyObject(server string, object []byte) (map[string]Key, error) {
	const op = "read key object"
	if len(object) > MaxKeyObject {
		return nil, mimiport.Errorf(op, mimiport.KindBadSignature, "that of %s has more than %d bytes", server, MaxKeyObject)
	}
	var published gomatrixserverlib.ServerKeys
	if err := json.Unmarshal(object, &published); err != nil {
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

// isKeyID says whether an id is one of an Ed25519 key that a store can keep: at most 255 visible ASCII characters.
func isKeyID(id string) bool {
	visible := !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' })
	return strings.HasPrefix(id, "ed25519:") && len(id) <= 255 && visible
}

// Verify checks the signature of a server on m by a key that it signs with at since or later: with the present time as
// since, by a current key. least is the least origin that counts, Known or Live. It returns the key, or an error:
// KindBadSignature for a key that the server does not have or a signature that does not verify, KindPeer where the
// server cannot be asked.
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

// signature is one that must verify, and what became of it.
type signature struct {
	server  string // who must have signed
	signed  *mimiport.SignedMessage
	message mimiport.Signed // signed.Message, decoded
	term    uint64          // that the step begins
	decider string          // of an offer: who has decided on it
	least   Origin          // that its key must have

	key     *Key  // under which it verifies, nil until there is one
	err     error // why there is none
	refused bool  // for good: no presented key counts
}

// try looks for the key among those of one origin. A key that the server has no more since a time is none.
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

// in says whether a step holds the same signature.
func (s *signature) in(step *mimiport.LineageStep) bool {
	for _, own := range []*mimiport.SignedMessage{&step.Response, &step.Confirmation, step.Claim} {
		if own != nil && own.KeyID == s.signed.KeyID && bytes.Equal(own.Message, s.signed.Message) {
			return true
		}
	}
	return false
}

// inquire looks for the keys of signatures: among those that are known, then at their servers, all at once, those first
// that must be live. It returns an error only when that cannot be done.
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
				const why = "%s is not asked: no more than %d servers are"
				s.err = mimiport.Errorf("look up key", mimiport.KindPeer, why, s.server, maxAsked)
			}
			continue
		}
		asked.Go(func() { ask(ctx, keys, since, open) })
	}
	asked.Wait()
	return ctx.Err() // a request that was given up has asked nobody
}

// byServer lists the signatures without a key yet, those of one server together, servers first of which one must be
// live.
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
