package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/urfave/cli/v3"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
)

// page is how many groups uninstall reads at a time.
const page = 256

func uninstallCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "uninstall", Usage: "remove what the module has stored",
		Description: `Without -yes it removes nothing, and says what it would remove: the module's tables, and
its consumers of Dendrite's streams. Drain the server first. Stop the homeserver, and
remove the section mimi_portability from its configuration. Groups that are here are
lost, and so are the redirects of groups that were here.

Consumers in a NATS server of your own need -nats. Those in the NATS inside Dendrite
need -jetstream, the storage_path of global.jetstream.`,
		Flags: []cli.Flag{
			databaseFlag("db", "the `DATABASE` whose tables to remove"),
			&cli.StringFlag{Name: "nats", Usage: "the `URL` of the NATS server: global.jetstream.addresses"},
			&cli.StringFlag{Name: "nats-credentials", Usage: "the credentials in `FILE` for that server"},
			&cli.StringFlag{Name: "jetstream", Usage: "the `DIRECTORY` of the NATS inside Dendrite"},
			&cli.BoolFlag{Name: "homeserver-is-stopped", Usage: "with -jetstream and -yes: no process uses the directory"},
			&cli.StringFlag{Name: "prefix", Value: "Dendrite", Usage: "`NAME` is global.jetstream.topic_prefix"},
			&cli.BoolFlag{Name: "lose-groups", Usage: "also if groups are still here"},
			&cli.BoolFlag{Name: "yes", Usage: "remove it"},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			u := &uninstall{
				connection: cmd.String("db"), yes: cmd.Bool("yes"), loseGroups: cmd.Bool("lose-groups"), std: std,
				streams: &streams{
					url: cmd.String("nats"), credentials: cmd.String("nats-credentials"), directory: cmd.String("jetstream"),
					prefix: cmd.String("prefix"),
				},
			}
			if u.yes && u.streams.directory != "" && !cmd.Bool("homeserver-is-stopped") {
				return misuse(ctx, cmd, errors.New("-jetstream and -yes need -homeserver-is-stopped: "+
					"two processes in that directory would destroy Dendrite's streams"), true)
			}
			return u.run(ctx)
		},
	}, "mimictl uninstall -db file:mimi_portability.db -jetstream ./jetstream\n"+
		"mimictl uninstall -db file:mimi_portability.db -jetstream ./jetstream -homeserver-is-stopped -yes")
}

// uninstall is one removal, or its dry run.
type uninstall struct {
	connection      string
	streams         *streams
	yes, loseGroups bool
	std             stdio
}

func (u *uninstall) run(ctx context.Context) error {
	if err := u.requireUnused(ctx); err != nil {
		return err
	}
	if !u.yes {
		found, err := u.streams.list(ctx)
		for _, c := range found {
			fmt.Fprintf(u.std.out, "would remove consumer %s\n", c)
		}
		fmt.Fprintln(u.std.notes, "mimictl: note: nothing was removed: add -yes")
		return err
	}
	removed, err := u.streams.remove(ctx) // first: without its tables, nothing says that the homeserver has stopped
	for _, c := range removed {
		fmt.Fprintf(u.std.out, "removed consumer %s\n", c)
	}
	if err != nil {
		return err
	}
	names, err := engine.Remove(ctx, u.connection)
	for _, name := range names {
		fmt.Fprintf(u.std.out, "removed %s\n", name)
	}
	return err
}

// requireUnused shows what is in the database. It fails while a server uses the database, or if groups are here.
func (u *uninstall) requireUnused(ctx context.Context) (err error) {
	store, err := engine.OpenSnapshot(ctx, u.connection)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if store.Beside() != "" && u.yes {
		return fmt.Errorf("%s: stop the homeserver first", store.Beside())
	}
	tables, err := store.Sum(ctx)
	if err != nil {
		return err
	}
	for _, t := range tables {
		fmt.Fprintf(u.std.out, "%-22s %8d rows\n", t.Table, t.Rows)
	}
	states, err := groupStates(ctx, store)
	if err != nil {
		return err
	}
	live := 0
	for _, state := range slices.Sorted(maps.Keys(states)) {
		fmt.Fprintf(u.std.out, "groups %-15s %8d\n", state, states[state])
		if slices.Contains([]migration.GroupState{migration.GroupActive, migration.GroupFrozen, migration.GroupStaged,
			migration.GroupStopped}, state) {
			live += states[state]
		}
	}
	if live > 0 && !u.loseGroups {
		err := fmt.Errorf("groups that are still here: %d. Their members could not go on", live)
		return &failure{err, statusRefused, []string{"drain the server first, or add -lose-groups"}}
	}
	return nil
}

// groupStates counts the groups by their state.
func groupStates(ctx context.Context, store *engine.Store) (map[migration.GroupState]int, error) {
	states := map[migration.GroupState]int{}
	for after := []byte(nil); ; {
		groups, err := store.Groups(ctx, storage.GroupFilter{}, after, page)
		if err != nil {
			return nil, err
		}
		for i := range groups {
			states[groups[i].State]++
		}
		if len(groups) < page {
			return states, nil
		}
		after = groups[page-1].ID
	}
}
