// Package pgtest runs a PostgreSQL server for tests, in a directory of its own that is gone afterwards.
package pgtest

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	_ "github.com/lib/pq" // the driver "postgres"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/needs"
)

// Server is a running server. It listens on a Unix socket alone.
type Server struct {
	directory string
	databases atomic.Int64
}

// Start starts a server and stops it when the test ends. Where PostgreSQL is not installed, package needs ends the
// test.
func Start(tb testing.TB) *Server {
	tb.Helper()
	programs := needs.PostgreSQL(tb)
	directory, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(directory) })
	attr := unprivileged(tb, directory)
	run := func(name string, args ...string) {
		tb.Helper()
		cmd := exec.Command(filepath.Join(programs, name), args...)
		cmd.Dir, cmd.SysProcAttr = directory, attr
		log, err := os.Create(filepath.Join(directory, name+".log")) // no pipe: the server would keep it open
		if err != nil {
			tb.Fatal(err)
		}
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			output, _ := os.ReadFile(log.Name())
			tb.Fatalf("%s: %v\n%s", name, err, output)
		}
	}
	data := filepath.Join(directory, "data")
	run("initdb", "-D", data, "-U", "mimi", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
	options := fmt.Sprintf("-k %s -c listen_addresses='' -c max_connections=200", directory)
	if _, measured := tb.(*testing.B); !measured {
		options += " -c fsync=off -c synchronous_commit=off -c full_page_writes=off" // nothing here outlives the power
	}
	run("pg_ctl", "-D", data, "-w", "-o", options, "start")
	tb.Cleanup(func() { run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop") })
	return &Server{directory: directory}
}

// Database creates an empty database and returns its connection string.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	db, err := sql.Open("postgres", s.connection("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	name := fmt.Sprintf("test%d", s.databases.Add(1))
	if _, err := db.Exec("CREATE DATABASE " + name); err != nil {
		tb.Fatal(err)
	}
	return s.connection(name)
}

func (s *Server) connection(database string) string {
	return fmt.Sprintf("postgres://mimi@/%s?host=%s&sslmode=disable", database, s.directory)
}

// unprivileged makes root's processes run as the user postgres, who then owns the directory: the server refuses to run
// as root.
func unprivileged(tb testing.TB, directory string) *syscall.SysProcAttr {
	tb.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		tb.Fatal(err)
	}
	uid, uidErr := strconv.ParseUint(account.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(account.Gid, 10, 32)
	if uidErr != nil || gidErr != nil {
		tb.Fatalf("user postgres has ids %s and %s", account.Uid, account.Gid)
	}
	if err := os.Chown(directory, int(uid), int(gid)); err != nil {
		tb.Fatal(err)
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}
