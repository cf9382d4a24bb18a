package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/plainjson"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
)

// The files of a backup.
const (
	backupDatabase = "mimi_portability.db"
	backupKey      = "matrix_key.pem"
	backupManifest = "manifest.json"
)

// manifest says what a backup holds.
type manifest struct {
	CreatedAt time.Time  `json:"created_at"`
	Schema    int64      `json:"schema"`
	KeyID     string     `json:"key_id,omitempty"` // of the signing key, if the backup holds it
	Tables    []tableSum `json:"tables"`
}

// tableSum has the contents of a table.
type tableSum struct {
	Table string `json:"table"`
	Rows  int    `json:"rows"`
	Sum   string `json:"sum"` // in hexadecimal, see sqlstore.Copied
}

func backupCreateCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "create", Usage: "back up a homeserver's module, also while it runs", ArgsUsage: "DIRECTORY",
		Description: `It copies the database as it is at one moment into an SQLite file, whatever its engine is,
compares the two, and writes the sums of all tables beside it. The directory must not
exist: it appears when the backup is whole. Only its owner can read it. The copy has
the keys with which the server proposes removals. The signing key is in it only with
-key. Back up Dendrite's own databases in the same minute.

The copy does not know when the server was in service last, so a server that is
restored from it yields no group for that reason.`,
		Flags: []cli.Flag{
			databaseFlag("db", "the `DATABASE` to back up"),
			&cli.StringFlag{Name: "key", Usage: "also copy the homeserver's private_key in `KEYFILE`"},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			return createBackup(ctx, cmd.String("db"), cmd.String("key"), cmd.Args().First(), std)
		},
	}, "mimictl backup create -db file:mimi_portability.db -key matrix_key.pem /backup/$(date +%F)")
}

func backupVerifyCommand(std stdio) *cli.Command {
	return leaf(cli.Command{
		Name: "verify", Usage: "check that a backup is whole and sound", ArgsUsage: "DIRECTORY",
		Description: `It compares every table with the sums, checks the database as fsck does, and says how old
the backup is and how many groups are in it. To restore it into either engine, run
mimictl db copy -from file:DIRECTORY/` + backupDatabase + `.`,
		Action: func(ctx context.Context, cmd *cli.Command) error {
			return verifyBackup(ctx, cmd.Args().First(), std)
		},
	}, "mimictl backup verify /backup/2026-11-29")
}

// whole makes a directory under another name first, so that a directory with its own name is whole. Only its owner can
// read it.
func whole(directory string, fill func(partial string) error) (err error) {
	if _, err := os.Lstat(directory); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("%s exists already", directory), err)
	}
	partial, err := os.MkdirTemp(filepath.Dir(directory), "."+filepath.Base(directory)+".partial-") // of mode 0700
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(partial))
		}
	}()
	if err := fill(partial); err != nil {
		return err
	}
	return os.Rename(partial, directory)
}

func createBackup(ctx context.Context, connection, keyFile, directory string, std stdio) error {
	m := &manifest{CreatedAt: std.now.UTC().Truncate(time.Second)}
	err := whole(directory, func(partial string) (err error) {
		if keyFile != "" {
			if m.KeyID, err = copyKey(keyFile, filepath.Join(partial, backupKey)); err != nil {
				return err
			}
		}
		if err := m.fill(ctx, connection, filepath.Join(partial, backupDatabase)); err != nil {
			return err
		}
		return m.write(filepath.Join(partial, backupManifest))
	})
	if err != nil {
		return err
	}
	for _, t := range m.Tables {
		fmt.Fprintf(std.out, "%-22s %8d rows\n", t.Table, t.Rows)
	}
	if m.KeyID == "" {
		fmt.Fprintln(std.notes, "mimictl: note: the signing key is not in the backup: keep a copy of it, or give -key")
	}
	return nil
}

// fill copies a database into a file, and notes what the file holds.
func (m *manifest) fill(ctx context.Context, connection, file string) (err error) {
	source, err := engine.OpenSnapshot(ctx, connection)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	copied, err := engine.Open(ctx, "file:"+file, postgres.Pool{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, copied.Close()) }()
	if _, err := engine.Copy(ctx, source, copied); err != nil {
		return err
	}
	if err := delivery.ForgetService(ctx, copied); err != nil {
		return err
	}
	m.Schema = source.Version()
	m.Tables, err = sums(ctx, copied)
	return err
}

func sums(ctx context.Context, store *engine.Store) (list []tableSum, err error) {
	found, err := store.Sum(ctx)
	for _, c := range found {
		list = append(list, tableSum{c.Table, c.Rows, hex.EncodeToString(c.Sum[:])})
	}
	return list, err
}

func (m *manifest) write(file string) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o600)
}

// copyKey copies a signing key into a private file, and returns its id.
func copyKey(from, to string) (id string, err error) {
	block, err := signingKey(from)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return "", err
	}
	return block.Headers["Key-ID"], os.WriteFile(to, text, 0o600)
}

func verifyBackup(ctx context.Context, directory string, std stdio) error {
	m, err := readManifest(directory)
	if err != nil {
		return err
	}
	if err := m.requireKey(directory); err != nil {
		return err
	}
	store, err := engine.OpenSnapshot(ctx, "file:"+filepath.Join(directory, backupDatabase))
	if err != nil {
		return err
	}
	err = m.verify(ctx, store, std)
	return errors.Join(err, store.Close())
}

// verify compares a store with the sums, and checks it.
func (m *manifest) verify(ctx context.Context, store *engine.Store, std stdio) error {
	found, err := sums(ctx, store)
	if err != nil {
		return err
	}
	if !slices.Equal(found, m.Tables) {
		for i, t := range found {
			if i >= len(m.Tables) || t != m.Tables[i] {
				fmt.Fprintf(std.out, "table %s is not what was backed up: it has %d rows\n", t.Table, t.Rows)
			}
		}
		return errors.New("the backup has changed since it was taken")
	}
	problems, _, err := check(ctx, store, nil, std.out)
	if err != nil {
		return err
	}
	age := std.now.Sub(m.CreatedAt).Truncate(time.Minute)
	fmt.Fprintf(std.out, "taken %s, %s ago, in schema version %d\n", m.CreatedAt.Format(time.RFC3339), age, m.Schema)
	if problems > 0 {
		return errors.New(count(problems, "problem"))
	}
	return nil
}

func readManifest(directory string) (*manifest, error) {
	text, err := os.ReadFile(filepath.Join(directory, backupManifest))
	if err != nil {
		return nil, fmt.Errorf("%s is not a backup: %w", directory, err)
	}
	m := new(manifest)
	if err := plainjson.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(directory, backupManifest), err)
	}
	return m, nil
}

// requireKey fails unless the backup has the signing key that it should have.
func (m *manifest) requireKey(directory string) error {
	if m.KeyID == "" {
		return nil
	}
	block, err := signingKey(filepath.Join(directory, backupKey))
	if err == nil && block.Headers["Key-ID"] != m.KeyID {
		err = fmt.Errorf("the signing key in the backup is %s, not %s", block.Headers["Key-ID"], m.KeyID)
	}
	return err
}
