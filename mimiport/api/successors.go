package api

import (
	"bytes"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// EventSuccessors is the type of the state event that lists the servers that may recover a room's group if the host is
// lost. The room sets it before that happens (profile, section 12).
const EventSuccessors = "io.github.mimiport.successors"

// MaxSuccessors is the largest number of servers in an EventSuccessors.
const MaxSuccessors = 16

// Successors is the content of EventSuccessors. If two servers recover the group, the server listed first has it.
type Successors struct {
	RoomID  string   `json:"room_id"`  // a list that a room upgrade has copied is void
	GroupID GroupID  `json:"group_id"` // the group that the list is about
	Servers []string `json:"servers"`  // at most MaxSuccessors valid names, none of them twice
}

// UnmarshalSuccessors reads the content of an EventSuccessors. It returns a KindBadMessage error for content without a
// group id or a list, and for a list that is too long, has a name twice or has an invalid name. It ignores unknown
// members.
func UnmarshalSuccessors(content []byte) (*Successors, error) {
	const op = "read successors"
	l := new(Successors)
	if err := plainjson.Unmarshal(content, l); err != nil {
		return nil, mimiport.Errorf(op, mimiport.KindBadMessage, "%w", err)
	}
	if l.GroupID == nil {
		return nil, mimiport.Errorf(op, mimiport.KindBadMessage, "there is no group id")
	}
	if l.Servers == nil {
		return nil, mimiport.Errorf(op, mimiport.KindBadMessage, "there is no list")
	}
	if n := len(l.Servers); n > MaxSuccessors {
		return nil, mimiport.Errorf(op, mimiport.KindBadMessage, "%d servers, at most %d are allowed", n, MaxSuccessors)
	}
	for i, name := range l.Servers {
		if err := mimiport.ValidateServerName(name); err != nil {
			return nil, err
		}
		if slices.Contains(l.Servers[:i], name) {
			return nil, mimiport.Errorf(op, mimiport.KindBadMessage, "%s is listed twice", name)
		}
	}
	return l, nil
}

// Names reports whether the list is of this room and group.
func (l *Successors) Names(roomID string, groupID []byte) bool {
	return l.RoomID == roomID && bytes.Equal(l.GroupID, groupID)
}
