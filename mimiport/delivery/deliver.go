package delivery

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/registry"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// courier delivers the log to members.
type courier struct{ *core }

// maxInline is the size in bytes of the largest message inside a fan-out event. Clients fetch a larger message from the
// log (profile, section 7).
const maxInline = 32 << 10

// Deliver delivers log entries to the members on one server. The rows are of one queue, in order. It returns the number
// of rows that are done. It does not delete them: the caller does. With an error, or if the entries are large, it may
// have done only the first rows. If the server refuses the very bytes of the next entry, the error is KindInvalid.
// Delivering a row twice does no harm.
func (s courier) Deliver(ctx context.Context, rows []storage.Row) (done int, err error) {
	first, last := &rows[0], &rows[len(rows)-1]
	g, err := s.Store.GroupAt(ctx, storage.GroupKey{ID: first.GroupID, Term: first.Term})
	if err != nil {
		return 0, err
	}
	entries, err := s.Store.Entries(ctx, g.Key(), first.Seq, int(min(last.Seq-first.Seq+1, maxEntries)))
	if err != nil {
		return 0, err
	}
	if len(entries) == 0 {
		return len(rows), nil // the log no longer has the entries: it is too late to deliver
	}
	rows = through(rows, entries[len(entries)-1].Seq)
	events, err := s.events(ctx, g, rows, entries)
	if err != nil {
		return 0, err
	}
	if len(events) == 0 {
		return len(rows), nil
	}
	arrived, err := s.Sender.ToDevice(ctx, g.Server, first.Destination, events)
	if err != nil {
		return len(through(rows, events[arrived].Seq-1)), err
	}
	return len(rows), nil
}

// deliverOne delivers the entry of one row, and deletes the row.
func (s courier) deliverOne(ctx context.Context, row *storage.Row) error {
	if _, err := s.Deliver(ctx, []storage.Row{*row}); err != nil {
		return err
	}
	return s.done(ctx, row)
}

// maxEntries is the most log entries that Deliver reads at a time. Between the entries for a server the log may have
// others.
const maxEntries = 256

// through returns the rows up to a number.
func through(rows []storage.Row, seq uint64) []storage.Row {
	end := slices.IndexFunc(rows, func(r storage.Row) bool { return r.Seq > seq })
	if end < 0 {
		return rows
	}
	return rows[:end]
}

// events makes the events for the rows whose entries the log has and for which the server has devices. The entries are
// successive.
func (s courier) events(
	ctx context.Context, g *storage.Group, rows []storage.Row, entries []storage.Entry,
) ([]api.DeviceEvent, error) {
	server := rows[0].Destination
	room, err := s.Rooms.Room(ctx, g.RoomID)
	if err != nil || len(room.Denied([]string{server})) > 0 {
		return nil, err
	}
	receipts, err := s.receipts(ctx, entries)
	if err != nil {
		return nil, err
	}
	wanted := make(map[uint64]*storage.Row, len(rows))
	for i := range rows {
		wanted[rows[i].Seq] = &rows[i]
	}
	entries = slices.DeleteFunc(entries, func(e storage.Entry) bool { return wanted[e.Seq] == nil })
	devices, err := s.recipients(ctx, g, room, entries, server)
	if err != nil {
		return nil, err
	}
	var events []api.DeviceEvent
	for i := range entries {
		e := &entries[i]
		if len(devices[i]) == 0 {
			continue
		}
		content, err := s.fanOutContent(ctx, g, e, receipts[e.Seq])
		if err != nil {
			return nil, err
		}
		events = append(events, api.DeviceEvent{
			ID: fmt.Sprintf("%s/%d", wanted[e.Seq].Queue, e.Seq), Type: api.EventMessage, Seq: e.Seq, Devices: devices[i],
			Content: content,
		})
	}
	return events, nil
}

func (s courier) fanOutContent(
	ctx context.Context, g *storage.Group, e *storage.Entry, receipt *api.SignedInfo,
) (json.RawMessage, error) {
	m, err := s.logMessage(ctx, e, receipt)
	if err != nil {
		return nil, err
	}
	if len(m.Message) > maxInline {
		m.Message = nil
	}
	return json.Marshal(&api.FanOut{GroupID: g.ID, RoomID: g.RoomID, Protocol: g.Protocol, Term: g.Term, LogMessage: *m})
}

// recipients lists, for each entry, the devices of a server that get it. A Welcome goes to its recipients. Any other
// entry goes to the present members and to the members that the entry itself removes. A user who has left the room gets
// only the Commit that removes them.
func (s courier) recipients(
	ctx context.Context, g *storage.Group, room Room, entries []storage.Entry, server string,
) ([]map[string][]string, error) {
	var present registry.Roster // nobody, unless an entry is for the present members
	if slices.ContainsFunc(entries, forMembers) {
		err := s.groups.WithLive(ctx, g.Key(), func(_ *storage.Group, l *registry.Live) error {
			present = registry.Roster{server: l.Roster.At(server)}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	to, users := make([]registry.Roster, len(entries)), make(map[string]bool)
	for i := range entries {
		to[i] = registry.Roster{server: present.At(server)}
		if !forMembers(entries[i]) {
			to[i] = make(registry.Roster)
			add(to[i], entries[i].Recipients)
		}
		for user := range to[i][server] {
			users[user] = true
		}
	}
	gone, err := s.absent(ctx, room, slices.Sorted(maps.Keys(users)))
	if err != nil {
		return nil, err
	}
	devices := make([]map[string][]string, len(entries))
	for i := range entries {
		for _, user := range gone {
			delete(to[i][server], user)
		}
		if forMembers(entries[i]) {
			add(to[i], entries[i].Recipients)
		}
		devices[i] = devicesOf(to[i][server])
	}
	return devices, nil
}

func forMembers(e storage.Entry) bool { return e.Kind != storage.EntryWelcome }

func devicesOf(users map[string]map[string]int) map[string][]string {
	devices := make(map[string][]string, len(users))
	for user, ids := range users {
		devices[user] = slices.AppendSeq(devices[user], maps.Keys(ids))
	}
	return devices
}
