package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/sqlite"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"mimictl": main, "holder": holder})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", Setup: setUp, Cmds: scriptCommands})
}

// scriptCommands are the commands of scripts beside those of testscript.
var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"dendrite": dendrite, "fill": fill, "version": version, "mode": mode, "spoil": spoil, "mend": mend, "lose": lose,
	"hold": hold, "drop": drop, "active": active, "serve": serve, "nats": natsServer, "stop": stop,
	"consumers": consumers,
}

// running is what a script has started. Scripts run side by side, so each has its own.
type running struct {
	holder *holding
	broker *natsserver.Server
}

type runningKey struct{}

func setUp(env *testscript.Env) error {
	env.Values[runningKey{}] = &running{}
	return nil
}

// started is what the script has started.
func started(ts *testscript.TestScript) *running { return ts.Value(runningKey{}).(*running) }

// change runs statements on an SQLite file.
func change(ts *testscript.TestScript, file string, statements ...string) {
	db, err := sql.Open("sqlite3", ts.MkAbs(file))
	ts.Check(err)
	defer db.Close()
	for _, s := range statements {
		_, err := db.Exec(s)
		ts.Check(err)
	}
}

// dendrite FILE makes a file as Dendrite makes one.
func dendrite(ts *testscript.TestScript, _ bool, args []string) {
	change(ts, args[0], "CREATE TABLE roomserver_events (event_nid INTEGER PRIMARY KEY)")
}

// fill FILE makes a database of the module with a setting and two nonces.
func fill(ts *testscript.TestScript, _ bool, args []string) {
	store, err := sqlite.Open(context.Background(), "file:"+ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(store.PutSetting(context.Background(), "heartbeat", []byte("{}")))
	ts.Check(store.Close())
	change(ts, args[0],
		"INSERT INTO mimiport_nonces VALUES ('@a:x', 'D', zeroblob(32), 1), ('@b:x', 'D', zeroblob(32), 1)",
		"PRAGMA wal_checkpoint(TRUNCATE)")
}

// version FILE N gives a database another schema version.
func version(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	change(ts, args[0], append(versionStatements(n), "PRAGMA wal_checkpoint(TRUNCATE)")...)
}

// mode FILE MODE fails unless the file has the mode.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%#o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, not %s", args[0], got, args[1])
	}
}

// spoil FILE makes a column unreadable in the second nonce.
func spoil(ts *testscript.TestScript, _ bool, args []string) {
	change(ts, args[0], "UPDATE mimiport_nonces SET used_at = 'never' WHERE user_id = '@b:x'")
}

// mend FILE undoes spoil.
func mend(ts *testscript.TestScript, _ bool, args []string) {
	change(ts, args[0], "UPDATE mimiport_nonces SET used_at = 1 WHERE user_id = '@b:x'")
}

// lose FILE deletes a row.
func lose(ts *testscript.TestScript, _ bool, args []string) {
	change(ts, args[0], "DELETE FROM mimiport_nonces WHERE user_id = '@b:x'")
}

// active FILE adds a group that is here.
func active(ts *testscript.TestScript, _ bool, args []string) {
	store, err := sqlite.Open(context.Background(), "file:"+ts.MkAbs(args[0]))
	ts.Check(err)
	group := &storage.Group{ID: []byte("group"), State: migration.GroupActive}
	ts.Check(store.Apply(context.Background(), &storage.Change{Group: group}))
	ts.Check(store.Close())
}

// holding is what a process needs to stop that holds a file open.
type holding struct {
	stdin io.Closer
	cmd   *exec.Cmd
}

// hold FILE opens a database in another process, as a server does, until drop or the end of the script.
func hold(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command("holder", "file:"+ts.MkAbs(args[0]))
	stdin, err := cmd.StdinPipe()
	ts.Check(err)
	stdout, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
		ts.Fatalf("the holder has not opened %s: %v", args[0], err)
	}
	h := &holding{stdin, cmd}
	started(ts).holder = h
	ts.Defer(h.end)
}

// drop ends the process of hold.
func drop(ts *testscript.TestScript, _ bool, _ []string) { started(ts).holder.end() }

func (h *holding) end() {
	_ = h.stdin.Close() // whether it ended before or not
	_ = h.cmd.Wait()
}

// holder holds a database open until its input ends.
func holder() {
	store, err := sqlite.Open(context.Background(), os.Args[1])
	if err == nil {
		err = store.PutSetting(context.Background(), "held", []byte("{}"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Stdout.Write([]byte{1})
	_, _ = io.ReadAll(os.Stdin)
	store.Close()
}
