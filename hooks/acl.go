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

// acls holds the last good server ACL of each room that was asked about. The room server forgets the content of an
// event that is redacted, so the content is stored as well: a restart must not make an ACL void.
type acls struct {
	store settings
	rooms stripes // held while a room's ACL is read and stored, so that an older one never follows a newer one

	mu    sync.Mutex
	known map[string]knownACL // by room
	size  int                 // bytes that were put into known
}

// settings is the part of storage.Store that acls needs.
type settings interface {
	Setting(ctx context.Context, name string) (json.RawMessage, error)
	PutSetting(ctx context.Context, name string, value json.RawMessage) error
}

// knownACL is a room's ACL as it was at a time, nil for none.
type knownACL struct {
	eventID string
	acl     *acl.ACL
	at      time.Time
}

const (
	// aclFresh is how long a room's state is not asked again. The room server reads all of a room's state to find one
	// event in it, and each message asks for each server that it goes to.
	aclFresh = time.Second / 2

	// maxKnown is how many bytes the ACLs in memory may have: their content, which takes a few times as much when it is
	// parsed, and entrySize for each room.
	maxKnown  = 16 << 20
	entrySize = 512
)

// acl is the server ACL in force in a room, nil without one.
func (r *rooms) acl(ctx context.Context, roomID string) (*acl.ACL, error) {
	if known := r.acls.get(roomID); known.fresh(r.now()) {
		return known.acl, nil
	}
	defer r.acls.rooms.lock(roomID)()
	known, now := r.acls.get(roomID), r.now()
	if known.fresh(now) { // somebody else has asked meanwhile
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
	case event.EventID() == known.eventID: // redacted since, or not
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

// lastGood stores the content of a state event under a name and returns the content. For a redacted event it returns
// what was stored before, so that nobody changes a room's rules with the power to redact. An event that was redacted
// before this server ever saw it has no content.
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

// fresh says whether an ACL need not be asked for again. A clock that went back makes nothing fresh.
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
