package main

import (
	"bytes"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
)

const (
	serverA = "a.example"
	serverB = "b.example"
	alice   = "@alice:a.example"
	bob     = "@bob:b.example"
)

// play is two servers with SQLite files.
type play struct {
	*deliverytest.World
	t *testing.T
}

func toB(m deliverytest.Message) bool      { return m.To == serverB }
func votesOfB(m deliverytest.Message) bool { return m.From == serverB && m.What == "vote" }

// members are alice and bob, each by the server to which this user moves a group.
type members map[string]*deliverytest.Member

func (p *play) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// begin makes a group at A.
func (p *play) begin() members {
	p.t.Helper()
	_, m, err := deliverytest.NewGroup(p.t.Context(), p.World, serverA, alice, bob)
	p.check(err)
	both := members{serverA: m[0], serverB: m[1]}
	p.talk(both)
	return both
}

// talk has both members commit and send a message.
func (p *play) talk(both members) {
	p.t.Helper()
	for _, name := range p.Servers() {
		m := both[name]
		p.check(m.Sync(p.t.Context()))
		p.check(m.Submit(p.t.Context(), m.NewCommit()))
		p.check(m.Sync(p.t.Context()))
		p.check(m.Send(p.t.Context(), m.NewMessage()))
	}
	p.check(p.Run(p.t.Context()))
}

// move begins to move a group, and runs the servers while lose drops some messages.
func (p *play) move(both members, target string, lose func(deliverytest.Message) bool) {
	p.t.Helper()
	m := both[target]
	p.check(m.Sync(p.t.Context()))
	proposed, err := m.NewMigration(p.t.Context(), target)
	p.check(err)
	_, err = m.Initiate(p.t.Context(), proposed)
	p.check(err)
	p.Lose = lose
	p.check(p.Run(p.t.Context()))
	p.Lose = nil
}

// fill makes a group that has moved away and come back, and one group for each state in which a crash can leave a
// migration.
func (p *play) fill() {
	p.t.Helper()
	back := p.begin()
	p.move(back, serverB, nil)
	p.talk(back)
	p.move(back, serverA, nil)
	p.talk(back)

	aborted := p.begin()
	p.move(aborted, serverB, toB)
	p.Pass(2 * time.Minute)
	p.check(p.Run(p.t.Context()))
	p.talk(aborted)

	frozen, staged, decided := p.begin(), p.begin(), p.begin()
	p.move(decided, serverB, toB)
	p.Pass(time.Second)
	_, err := p.Work(p.t.Context(), serverA)
	p.check(err)
	p.move(frozen, serverB, toB)
	p.move(staged, serverB, votesOfB)
}

// databases makes the databases of A and B.
func databases(t *testing.T) map[string]string {
	t.Helper()
	files, stores := map[string]string{}, map[string]storage.Store{}
	for _, name := range []string{serverA, serverB} {
		files[name] = filepath.Join(t.TempDir(), name+".db")
		store, err := sqlite.Open(t.Context(), "file:"+files[name])
		if err != nil {
			t.Fatal(err)
		}
		stores[name] = store
	}
	p := &play{World: deliverytest.New(1, stores), t: t}
	p.fill()
	for _, store := range stores {
		p.check(store.Close())
	}
	return files
}

func runFsck(file string, more ...string) (status int, out string) {
	var stdout, stderr bytes.Buffer
	status = run(append([]string{"fsck", "-db", "file:" + file}, more...), stdio{nil, &stdout, &stderr, time.Time{}})
	return status, stdout.String() + stderr.String()
}

// corruptions are changes to a database that a broken disk, a bug or an impatient operator could make.
var corruptions = []struct {
	name, server, sql, want string
}{
	{
		"a message has another byte", serverA,
		`UPDATE mimiport_entries SET message = CAST(message || 'x' AS BLOB) WHERE kind = 'application' AND seq = 2`,
		"does not have its hash",
	},
	{"a Commit is another one", serverA, `UPDATE mimiport_entries
		SET (message, group_info) = (SELECT message, group_info FROM mimiport_entries
		WHERE kind = 'commit' AND seq = 3) WHERE kind = 'commit' AND seq = 1`, "message 1: "},
	{"a message is gone", serverA, `DELETE FROM mimiport_entries WHERE seq = 3`, "are missing"},
	{"the last message is gone", serverA, `DELETE FROM mimiport_entries WHERE seq = 4`, "are missing"},
	{
		"a group is an epoch ahead", serverA, `UPDATE mimiport_groups SET epoch = epoch + 1 WHERE state = 'active'`,
		"the log ends at epoch",
	},
	{
		"numbers are given out twice", serverA,
		`UPDATE mimiport_groups SET next_seq = next_seq - 1 WHERE state = 'active'`,
		"the next to come is",
	},
	{
		"a snapshot has another tree", serverA, `UPDATE mimiport_snapshots SET ratchet_tree = substr(ratchet_tree, 2)`,
		"the snapshot of epoch 0",
	},
	{"a snapshot is gone", serverA, `DELETE FROM mimiport_snapshots`, "has no snapshot"},
	{
		"a frozen group accepts Commits", serverA, `UPDATE mimiport_groups SET state = 'active' WHERE state = 'frozen'`,
		"it is frozen, and the group is active",
	},
	{
		"a group is at two servers", serverA, `UPDATE mimiport_groups SET state = 'active' WHERE state = 'moved'`,
		"the group is active",
	},
	{
		"a group is here twice", serverA, `UPDATE mimiport_groups SET state = 'active' WHERE term = 0`,
		"the group is also here in term 2",
	},
	{"a lineage is cut", serverA, `UPDATE mimiport_groups SET lineage = (SELECT lineage FROM mimiport_groups AS first
		WHERE first.group_id = mimiport_groups.group_id AND first.term = 0)`, "its lineage has 0 steps, not 2"},
	{"a lineage is another group's", serverA, `UPDATE mimiport_groups
		SET lineage = (SELECT lineage FROM mimiport_groups WHERE term = 0
		ORDER BY group_id LIMIT 1) WHERE term = 0`, "the preimage is not the group id's"},
	{
		"a decision is not handed out", serverA, `DELETE FROM mimiport_outbox WHERE kind = 'confirmation'`,
		"no row of kind confirmation",
	},
	{"nobody asks for the outcome", serverB, `DELETE FROM mimiport_outbox WHERE kind = 'ask'`, "no row of kind ask"},
	{"nothing is ever due", serverA, `DELETE FROM mimiport_queues`, "is never due"},
	{
		"a queue begins in the middle", serverA, `UPDATE mimiport_queues SET row_order = row_order + 1`,
		"does not begin with its first row",
	},
	{
		"a quota counts another group", serverA, `UPDATE mimiport_counts SET number = number + 1 WHERE quota = 'groups'`,
		"the number for the quota groups is wrong",
	},
	{
		"a quota counts nothing", serverA, `DELETE FROM mimiport_counts`,
		"the number for the quota groups_per_room is wrong",
	},
	{"an offer is given out twice", serverB, `UPDATE mimiport_migrations
		SET response = (SELECT response FROM mimiport_migrations
		ORDER BY migration_id LIMIT 1) WHERE role = 'target'`, "it has the nonce of migration"},
	{
		"a content has another byte", serverA, `UPDATE mimiport_contents SET data = CAST(data || 'x' AS BLOB)`,
		"the content to send does not have its hash",
	},
	{
		"a decision is not signed", serverA, `UPDATE mimiport_migrations SET confirmation = x'' WHERE state = 'moved'`,
		"it is moved without a confirmation",
	},
	{
		"both outcomes are signed", serverA, `UPDATE mimiport_migrations SET abort = x'00' WHERE state = 'decided'`,
		"its abort is not for it",
	},
	{"a record is gone", serverA, `DELETE FROM mimiport_migrations`, "by a migration that is not known"},
	{
		"a term is absurd", serverA, `UPDATE mimiport_groups SET term = 1 << 60 WHERE term = 2`,
		"no group has moved so often",
	},
	{"a receipt is another's", serverA, `UPDATE mimiport_receipts SET commit_hash = zeroblob(32) WHERE epoch = 1`,
		"is not the Commit that was signed for, to lead to epoch 1"},
	{"a receipt is gone", serverA, `DELETE FROM mimiport_receipts WHERE epoch = 2`, "is a Commit without a receipt"},
	{"a receipt is ahead of its group", serverA, `UPDATE mimiport_receipts SET epoch = 99 WHERE epoch = 2`,
		"it has signed for a Commit that leads to epoch 99"},
	{"a receipt is of no group", serverA, `UPDATE mimiport_receipts SET term = 9`, "receipts are of no group"},
	{
		"a former term is none", serverA, `UPDATE mimiport_former SET data = substr(data, 2)`,
		"the log of its former terms: ",
	},
	{"a former term is to come", serverA, `UPDATE mimiport_former SET term = 0`, "has a message of term 1"},
	{
		"a former term is of no group", serverA, `UPDATE mimiport_former SET term = 9`,
		"logs of former terms are of no group",
	},
	{"a key object is none", serverA, `INSERT INTO mimiport_key_objects
		VALUES ('c.example', 'ed25519:a', CAST('{"a":1}' AS BLOB), 1)`, "keys of c.example: "},
	{
		"a group is frozen by nothing", serverA,
		`UPDATE mimiport_groups SET migration_id = zeroblob(32) WHERE state = 'frozen'`, "it is frozen by no migration",
	},
	{
		"a preimage is lost", serverA, `UPDATE mimiport_groups SET lineage = CAST(substr(lineage, 1, 10) || x'00' ||
		substr(lineage, 71) AS BLOB) WHERE state = 'active' AND term = 0`, // the creating server, the room, no steps
		"its lineage has lost the preimage of the group id",
	},
	{"a policy does not parse", serverA, `INSERT INTO mimiport_settings VALUES ('policy', CAST('{"source": 1}' AS BLOB))`,
		"setting policy: the stored policy does not parse"},
	{"a drain does not parse", serverA, `INSERT INTO mimiport_settings VALUES ('drain', CAST('{"targets": 1}' AS BLOB))`,
		"setting drain: "},
	{"a drain has no rate", serverA, `INSERT INTO mimiport_settings VALUES ('drain',
		CAST('{"targets": ["b.example"], "started_at": 1}' AS BLOB))`, "rate_per_minute"},
	{"a group of the drain is unknown", serverA, inDrain(`x'00', 'waiting', 0, '', 0, 0, null`),
		"the store does not have it"},
	{"an id of the drain is bound to nothing", serverA, `UPDATE mimiport_groups SET state = 'reserved'
		WHERE state = 'frozen'; ` + inDrain(`group_id, 'waiting', 0, '', 0, 0, null FROM mimiport_groups
		WHERE state = 'reserved'`), "nothing is bound to the id yet"},
	{"a drain asks nobody", serverA, inDrain(`group_id, 'asked', 0, '', 1, 1, null` + oneActive),
		"does not name the member"},
	{"an obstacle does not parse", serverA, inDrain(`group_id, 'stuck', 0, '', 0, 0, x'5b' ` + oneActive),
		"why it is stuck does not parse"},
	{"a state of the drain is none", serverA, inDrain(`group_id, 'lost', 0, '', 0, 0, null` + oneActive),
		`"lost" is no state of the drain`},
	{"a group is gone", serverA, `DELETE FROM mimiport_groups WHERE term = 0`, "are of no group"},
}

// inDrain adds a row to the drain.
func inDrain(row string) string { return "INSERT INTO mimiport_drain SELECT " + row }

const oneActive = ` FROM mimiport_groups WHERE state = 'active' LIMIT 1`

func TestFsck(t *testing.T) {
	files := databases(t)
	for name, file := range files {
		if status, out := runFsck(file); status != 0 || strings.Count(out, "\n") != 1 {
			t.Fatalf("%s: status %d\n%s", name, status, out)
		}
	}
	for _, c := range corruptions {
		t.Run(c.name, func(t *testing.T) {
			file := corrupted(t, files[c.server], c.sql)
			if status, out := runFsck(file); status != 1 || !strings.Contains(out, c.want) {
				t.Errorf("status %d, without %q:\n%s", status, c.want, out)
			}
		})
	}
	dropped := corrupted(t, files[serverA], "DROP TABLE mimiport_receipts")
	if status, out := runFsck(dropped); status != 1 || !strings.Contains(out, "table mimiport_receipts: it is missing") {
		t.Errorf("a missing table: status %d\n%s", status, out)
	}
	status, out := runFsck(files[serverA], "-peers", files[serverA])
	if status != 1 || !strings.Contains(out, "is not the private key of a homeserver") {
		t.Errorf("a file without a key: status %d\n%s", status, out)
	}
}

// corrupted makes a copy of a database and changes it by a statement.
func corrupted(t *testing.T, file, statement string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(t.TempDir(), "damaged.db")
	if err := os.WriteFile(damaged, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite3", damaged)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	result, err := db.ExecContext(t.Context(), statement)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := result.RowsAffected(); n == 0 && !strings.HasPrefix(statement, "DROP") || err != nil {
		t.Fatalf("%d rows were changed: %v", n, err)
	}
	return damaged
}
