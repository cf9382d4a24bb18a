package api

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// EventSuccessors is the type of the state event by which a room agrees, while all is well, on the servers that may
// take its group on when the host is lost (profile, section 12).
const EventSuccessors = "io.github.mimiport.successors"

// MaxSuccessors is how many servers an EventSuccessors names at most.
const MaxSuccessors = 16

// Successors is the content of EventSuccessors. Of two servers that both recover the group, the one listed first has
// it.
type Successors struct {
	RoomID  string   `json:"room_id"`  // a list that a room upgrade has copied is void
	GroupID GroupID  `json:"group_id"` // of the group that it is about
	Servers []string `json:"servers"`  // at most MaxSuccessors valid names, none of them twice
}

// UnmarshalSuccessors reads the content of an EventSuccessors. It returns a KindBadMessage error for content without a
// group id or a list, and for a list that is too long or has a name twice or a name that is not valid. Unknown members
// are ignored.
func UnmarshalSuccessors(content []byte) (*Successors, error) {
	const op = "read successors"
	l := new(Successors)
	if err := json.Unmarshal(content, l); err != nil {
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

// Names says whether the list is of this room and group.
func (l *Successors) Names(roomID string, groupID []byte) bool {
	return l.RoomID == roomID && bytes.Equal(l.GroupID, groupID)
}
