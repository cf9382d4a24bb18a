package sqlstore

import (
	"fmt"
	"strings"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// where builds a WHERE clause and its arguments.
type where struct {
	text strings.Builder
	args []any
}

// and adds a condition that has a question mark for each value.
func (w *where) and(condition string, values ...any) {
	separator := " AND "
	if w.text.Len() == 0 {
		separator = "WHERE "
	}
	w.text.WriteString(separator + w.number(condition, values))
}

// with returns the clause, followed by tail.
func (w *where) with(tail string, values ...any) string {
	return w.text.String() + " " + w.number(tail, values)
}

// number appends the values to the arguments, and replaces the question marks by their numbers.
func (w *where) number(text string, values []any) string {
	for _, v := range values {
		w.args = append(w.args, v)
		text = strings.Replace(text, "?", fmt.Sprintf("$%d", len(w.args)), 1)
	}
	return text
}

// equals adds a condition unless the value is empty.
func equals[T ~string](w *where, column string, value T) {
	if value != "" {
		w.and(column+" = ?", value)
	}
}

// oneOf adds a condition unless there are no values.
func oneOf[T any](w *where, column string, values []T) {
	if len(values) > 0 {
		w.and(column+" IN (?"+strings.Repeat(", ?", len(values)-1)+")", anys(values)...)
	}
}

func anys[T any](values []T) []any {
	converted := make([]any, len(values))
	for i, v := range values {
		converted[i] = v
	}
	return converted
}

func groupsWhere(f *storage.GroupFilter) *where {
	w := new(where)
	oneOf(w, "state", f.States)
	equals(w, "creator", f.Creator)
	equals(w, "room_id", f.RoomID)
	equals(w, "server", f.Server)
	return w
}

// highest selects groups in their highest terms that are not dropped, in the table as g. It asks the index alone for
// most groups, which have one term.
const highest = `g.state <> 'dropped' AND NOT EXISTS (SELECT 1 FROM mimiport_groups AS later
	WHERE later.group_id = g.group_id AND later.term > g.term AND later.state <> 'dropped')`

// latestWhere is groupsWhere with highest.
func latestWhere(f *storage.GroupFilter) *where {
	w := groupsWhere(f)
	w.and(highest)
	return w
}

func migrationsWhere(f *storage.MigrationFilter) *where {
	w := new(where)
	if len(f.GroupID) > 0 {
		w.and("group_id = ?", f.GroupID)
	}
	equals(w, "role", f.Role)
	oneOf(w, "state", f.States)
	equals(w, "user_id", f.User)
	equals(w, "room_id", f.RoomID)
	equals(w, "source", f.Source)
	if !f.Since.IsZero() {
		w.and("created_at >= ?", (*millis)(&f.Since))
	}
	if !f.Until.IsZero() {
		w.and("created_at <= ?", (*millis)(&f.Until))
	}
	return w
}
