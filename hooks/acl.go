package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/acl"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// acls holds the last good server ACL of each room about which the service asked. The room server forgets the content
// of a redacted event. So acls also stores the content: otherwise a restart would make an ACL void.
type acls struct {
	store settings
	rooms stripes // held while reading and storing a room's ACL, so an older one never replaces a newer one

	mu    sync.Mutex
	known map[string]knownACL // by room
	size  int                 // size of known in bytes
}

// settings is the part of storage.Store that acls needs.
type settings interface {
	Setting(ctx context.Context, name string) (json.RawMessage, error)
	PutSetting(ctx context.Context, name string, value json.RawMessage) error
}

// knownACL is a room's ACL as it was at a time. Nil is no ACL.
type knownACL struct {
	eventID string
	acl     *acl.ACL
	at      time.Time
}

const (
	// aclFresh is the time for which acls answers from memory. The room server reads all of a room's state to find one
	// event, and each message needs an answer for each of its destinations.
	aclFresh = time.Second / 2

	// maxKnown bounds the memory of the ACLs, in bytes: their content, and entrySize for each room. A parsed ACL takes a
	// few times as much as its content.
	maxKnown  = 16 << 20
	entrySize = 512
)

// acl returns the server ACL in force in a room, nil for none.
func (r *rooms) acl(ctx context.Context, roomID string) (*acl.ACL, error) {
	if known := r.acls.get(roomID); known.fresh(r.now()) {
		return known.acl, nil
	}
	defer r.acls.rooms.lock(roomID)()
	known, now := r.acls.get(roomID), r.now()
	if known.fresh(now) { // another call asked meanwhile
		return known.acl, nil
	}
	event, err := r.stateEvent(ctx, roomID, acl.EventType)
	if err != nil {
		return nil, err
	}
	next := knownACL{at: now}
	var content json.RawMessage
	switch {
	case event == nil:
	case event.EventID() == known.eventID: // the same event, redacted or not
		next.eventID, next.acl = known.eventID, known.acl
	default:
		redacted := acl.Redacted(event.Content())
		content, err = lastGood(ctx, r.acls.store, "server_acl/"+roomID, event.Content(), redacted)
		if err != nil {
			return nil, err
		}
		parsed := acl.Parse(content)
		next.eventID, next.acl = event.EventID(), &parsed
	}
	r.acls.put(roomID, next, len(content))
	return next.acl, nil
}

// lastGood stores the content of a state event under a name and returns it. For a redacted event it returns the stored
// content, so that the power to redact does not let anyone change a room's rules. If this server never saw the event
// before its redaction, there is no content.
func lastGood(
	ctx context.Context, store settings, name string, content json.RawMessage, redacted bool,
) (json.RawMessage, error) {
	stored, err := store.Setting(ctx, name)
	switch {
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return nil, err
	case redacted:
		return stored, nil
	case bytes.Equal(stored, content):
		return content, nil
	}
	return content, store.PutSetting(ctx, name, content)
}

// fresh reports whether an ACL is recent enough to use. After the clock went back, no ACL is.
func (k knownACL) fresh(now time.Time) bool {
	age := now.Sub(k.at)
	return age >= 0 && age < aclFresh
}

func (c *acls) get(room string) knownACL {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[room]
}

func (c *acls) put(room string, k knownACL, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.known[room]; !ok {
		size += entrySize
	}
	if c.size += size; c.known == nil || c.size > maxKnown {
		c.known, c.size = make(map[string]knownACL), size
	}
	c.known[room] = k
}
