package policy

import (
	"errors"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// exceeded has, for each quota by its name in JSON, the text of the refusal and the time after which a new attempt
// makes sense. The time is 0 when waiting does not help.
var exceeded = map[string]struct {
	why   string
	again time.Duration
}{
	"groups":            {"this server hosts as many groups as it may", 0},
	"groups_per_user":   {"the user has as many groups on this server as one user may have", 0},
	"groups_per_room":   {"the room has as many groups on this server as one room may have", 0},
	"reserved_per_user": {"the user has too many reserved group ids without a group", 0},
	"reserved_per_room": {"the room has too many reserved group ids without a group", 0},
	"members":           {"the group has more members than this server accepts", 0},
	"offers":            {"the user has too many open offers", time.Minute},
	"offers_per_room":   {"the room has too many open offers", time.Minute},
	"staged":            {"too many migrations to this server wait for their sources", 0},
	"staged_per_user":   {"too many migrations of the user to this server wait for their sources", 0},
	"staged_per_room":   {"too many migrations of the room to this server wait for their sources", 0},
	"staged_per_source": {"too many migrations to this server wait for this source", 0},
	"moves_per_hour":    {"the user has begun too many migrations in the last hour", 10 * time.Minute},
	"aborts_an_hour":    {"the user has had too many aborted migrations of this group in the last hour", 10 * time.Minute},
	"bytes_per_day":     {"the user has added as many bytes to the group today as one user may add", time.Hour},

	"groups_per_user_in_room": {"the user has as many groups of the room on this server as one user may have", 0},
	"staged_per_user_in_room": {"too many migrations of the room by the user to this server wait for their sources", 0},
}

// Exceeded returns the error of a request that would exceed the quota with this name in JSON. When waiting helps, the
// error is KindQuota, and Info.RetryAfter is the time to wait. Otherwise it is KindForbidden. Info.Rule is the name.
func Exceeded(quota string) *mimiport.Error {
	q := exceeded[quota]
	e := &mimiport.Error{Op: "quota", Kind: mimiport.KindForbidden, Err: errors.New(q.why)}
	e.Info = mimiport.Info{Rule: quota, RetryAfter: q.again}
	if q.again > 0 {
		e.Kind = mimiport.KindQuota
	}
	return e
}
