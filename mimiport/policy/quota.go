package policy

import (
	"errors"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// exceeded says of each quota, by its name in JSON, why it refuses, and after how long it is worth asking again: 0 for
// those that do not pass by waiting.
var exceeded = map[string]struct {
	why   string
	again time.Duration
}{
	"groups":            {"this server hosts as many groups as it may", 0},
	"groups_per_user":   {"the user has as many groups on this server as one user may", 0},
	"groups_per_room":   {"the room has as many groups on this server as one room may", 0},
	"reserved_per_user": {"the user has too many group ids that no group is bound to", 0},
	"reserved_per_room": {"the room has too many group ids that no group is bound to", 0},
	"members":           {"the group has more members than this server accepts", 0},
	"offers":            {"the user has too many open offers", time.Minute},
	"offers_per_room":   {"the room has too many open offers", time.Minute},
	"staged":            {"too many migrations to this server wait for their sources", 0},
	"staged_per_user":   {"too many migrations of the user to this server wait for their sources", 0},
	"staged_per_room":   {"too many migrations of the room to this server wait for their sources", 0},
	"staged_per_source": {"too many migrations to this server wait for this source", 0},
	"moves_per_hour":    {"the user has begun too many migrations in the last hour", 10 * time.Minute},
	"aborts_an_hour":    {"too many migrations of this group by the user were aborted in the last hour", 10 * time.Minute},
	"bytes_per_day":     {"the user has added as much to the group today as one user may", time.Hour},

	"groups_per_user_in_room": {"the user has as many groups of the room on this server as one user may", 0},
}

// Exceeded is the refusal of what would exceed the quota that has this name in JSON. It is of KindQuota, with a time
// after which to ask again, where waiting helps, else of KindForbidden. Info.Rule is the name.
func Exceeded(quota string) *mimiport.Error {
	q := exceeded[quota]
	e := &mimiport.Error{Op: "quota", Kind: mimiport.KindForbidden, Err: errors.New(q.why)}
	e.Info = mimiport.Info{Rule: quota, RetryAfter: q.again}
	if q.again > 0 {
		e.Kind = mimiport.KindQuota
	}
	return e
}
