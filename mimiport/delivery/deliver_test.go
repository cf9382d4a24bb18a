package delivery_test

import (
	"context"
	"errors"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// errAway is the error of a database that does not answer.
var errAway = errors.New("the database does not answer")

// unreadable is a store that cannot read logs.
type unreadable struct{ storage.Store }

func (unreadable) Entries(context.Context, storage.GroupKey, uint64, int) ([]storage.Entry, error) {
	return nil, errAway
}

// TestDeliverWithoutLog: while the database does not answer, no message counts as delivered.
func TestDeliverWithoutLog(t *testing.T) {
	c := newCrowd(t, serviceOn(unreadable{memory.New()}), 3)
	f := storage.FanOut{GroupKey: storage.GroupKey{ID: c.id}, Seq: 1}
	done, err := c.service.Deliver(t.Context(), []storage.Row{f.Row("a.example")})
	if done != 0 || !errors.Is(err, errAway) {
		t.Errorf("%d messages are done, and the error is %v", done, err)
	}
}
