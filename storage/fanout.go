package storage

import (
	"context"
	"fmt"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// FanOut is a log entry on its way to servers: one record for all of them. A worker sends it to each server and then
// settles it. When it settles a FanOut, it stores a row for each server that did not get the entry yet. So for each
// server the entries before its first row are delivered, and the FanOuts of the group follow its last row.
type FanOut struct {
	GroupKey
	Seq     uint64    // of the log entry
	At      time.Time // when the group accepted the entry
	Servers []string  // sorted, each once
}

// Row returns the row for a server that did not get the entry yet. The row is due since the entry was accepted.
func (f *FanOut) Row(server string) Row {
	return Row{
		Destination: server, Queue: FanOutQueue(f.GroupKey), Order: f.Seq, Kind: RowFanOut,
		GroupID: f.ID, Term: f.Term, Seq: f.Seq, Due: f.At,
	}
}

// Position is the number of an entry in the log of a group.
type Position struct {
	GroupKey
	Seq uint64
}

// FanOutQueue names the queue of a group's rows in one term. Each server has such a queue, with the order of the log.
func FanOutQueue(key GroupKey) string {
	return fmt.Sprintf("group/%s/%d", mimiport.IDText(key.ID), key.Term)
}

// FanOuts has the log entries on their way.
type FanOuts interface {
	// Waiting lists the groups that have FanOuts, each with the number of its last one.
	Waiting(ctx context.Context) ([]Position, error)
	// FanOuts returns at most limit FanOuts of a group from a number on, in order.
	FanOuts(ctx context.Context, from Position, limit int) ([]FanOut, error)
	// Behind lists the servers that have rows in the queue FanOutQueue(key).
	Behind(ctx context.Context, key GroupKey) (servers []string, err error)
	// ClaimFanOuts reserves a group's FanOuts for this process, as Claim reserves a queue.
	ClaimFanOuts(ctx context.Context, key GroupKey) (release func(), err error)
}
