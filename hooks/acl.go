package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"

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
	size  int                 // bytes of content in known
}

// settings is the part of storage.Store that acls needs.
type settings interface {
	Setting(ctx context.Context, name string) (json.RawMessage, error)
	PutSetting(ctx context.Context, name string, value json.RawMessage) error
}

type knownACL struct {
	eventID string
	acl     *acl.ACL
}

// maxKnown is how many bytes of content the ACLs in memory may have. Parsed they take a few times as much.
const maxKnown = 16 << 20

// acl is the server ACL in force in a room, nil without one.
func (r *rooms) acl(ctx context.Context, roomID string) (*acl.ACL, error) {
	event, err := r.stateEvent(ctx, roomID, acl.EventType)
	if err != nil || event == nil {
		return nil, err
	}
	if known := r.acls.cached(roomID, event.EventID()); known != nil {
		return known, nil
	}
	defer r.acls.rooms.lock(roomID)()
	if event, err = r.stateEvent(ctx, roomID, acl.EventType); err != nil || event == nil {
		return nil, err
	}
	content, err := r.acls.lastGood(ctx, roomID, event.Content())
	if err != nil {
		return nil, err
	}
	parsed := acl.Parse(content)
	r.acls.keep(roomID, knownACL{event.EventID(), &parsed}, len(content))
	return &parsed, nil
}

// lastGood stores the content of a room's ACL event and returns it. For a redacted event it returns what was stored
// before, so that nobody changes an ACL with the power to redact. An ACL that was redacted before it was ever seen
// denies all, as the specification says.
func (c *acls) lastGood(ctx context.Context, room string, content json.RawMessage) (json.RawMessage, error) {
	name := "server_acl/" + room
	stored, err := c.store.Setting(ctx, name)
	switch {
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return nil, err
	case acl.Redacted(content):
		return stored, nil
	case bytes.Equal(stored, content):
		return content, nil
	}
	return content, c.store.PutSetting(ctx, name, content)
}

// cached finds an ACL by its event, redacted since or not.
func (c *acls) cached(room, eventID string) *acl.ACL {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known := c.known[room]; known.eventID == eventID {
		return known.acl
	}
	return nil
}

func (c *acls) keep(room string, known knownACL, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size += size; c.known == nil || c.size > maxKnown {
		c.known, c.size = make(map[string]knownACL), size
	}
	c.known[room] = known
}
