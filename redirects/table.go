// Package redirects answers for the groups that have moved away from a homeserver that has ended. It serves a table,
// which was exported from the homeserver's database, and never changes it. The answers are those of package delivery.
package redirects

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/matrix-org/gomatrixserverlib"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
)

// The names of the settings in a table: one for the homeserver, and one for each room.
const (
	homeSetting = "redirects/home"
	roomSetting = "redirects/room/"
)

// Home is the homeserver for which a table answers.
type Home struct {
	Server  string                                                     `json:"server"`
	OldKeys map[gomatrixserverlib.KeyID]gomatrixserverlib.OldVerifyKey `json:"old_verify_keys"`
}

// Source is what an export reads.
type Source struct {
	Store   *engine.Store // a snapshot of the homeserver's database
	Home    Home
	Readers func(ctx context.Context, roomID string) (*api.Readers, error) // asks the homeserver
}

// Exported counts what a new table has, and what the homeserver still has to do.
type Exported struct {
	Groups, Rooms int
	Here          int // groups that are at the homeserver, or on their way to it: the table does not have them
	Waiting       int // pieces of work that the homeserver has not done
}

// page is how many groups an export reads at a time.
const page = 256

// Export makes a table in a new SQLite file. Only the owner of the file can read it: it has ids of users.
func Export(ctx context.Context, from *Source, file string) (n *Exported, err error) {
	table, err := engine.Open(ctx, "file:"+file, postgres.Pool{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, table.Close()) }()
	if err := engine.CopyGone(ctx, from.Store, table); err != nil {
		return nil, err
	}
	if err := put(ctx, table, homeSetting, from.Home); err != nil {
		return nil, err
	}
	n = new(Exported)
	if err := n.addRooms(ctx, from, table); err != nil {
		return nil, err
	}
	return n, n.addRest(ctx, from.Store)
}

// addRooms stores who may read the groups of each room.
func (n *Exported) addRooms(ctx context.Context, from *Source, table *engine.Store) error {
	seen := make(map[string]bool)
	for after := []byte(nil); ; {
		groups, err := table.Groups(ctx, storage.GroupFilter{}, after, page)
		if err != nil || len(groups) == 0 {
			return err
		}
		after = groups[len(groups)-1].ID
		n.Groups += len(groups)
		for i := range groups {
			room := groups[i].RoomID
			if seen[room] {
				continue
			}
			seen[room] = true
			readers, err := from.Readers(ctx, room)
			if err != nil {
				return fmt.Errorf("room %s: %w", room, err)
			}
			if err := put(ctx, table, roomSetting+room, readers); err != nil {
				return err
			}
			n.Rooms++
		}
	}
}

// addRest counts what the homeserver still has to do.
func (n *Exported) addRest(ctx context.Context, from *engine.Store) error {
	figures, err := from.Figures(ctx)
	if err != nil {
		return err
	}
	for _, state := range []migration.GroupState{
		migration.GroupActive, migration.GroupFrozen, migration.GroupStopped, migration.GroupStaged,
	} {
		n.Here += figures.Groups[state]
	}
	for _, b := range figures.Outbox {
		n.Waiting += b.Rows
	}
	return nil
}

func put(ctx context.Context, table *engine.Store, name string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return table.PutSetting(ctx, name, text)
}

// get reads a setting of a table. It reports false if there is none.
func get(ctx context.Context, table storage.Settings, name string, into any) (bool, error) {
	text, err := table.Setting(ctx, name)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, plainjson.Unmarshal(text, into)
}
