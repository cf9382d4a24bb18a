// Package pgtest runs a PostgreSQL server for tests, in its own directory, which the end of the test deletes.
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
	programs  string // the folder of PostgreSQL's programs
	options   string // the server's command line options
	attr      *syscall.SysProcAttr
	databases atomic.Int64
	stopped   bool
}

// Start starts a server and stops it when the test ends. If PostgreSQL is not installed, package needs ends the test.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s := prepare(tb, needs.PostgreSQL(tb))
	s.run(tb, "initdb", "-D", s.data(), "-U", "mimi", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
	s.start(tb)
	return s
}

// prepare makes a server's directory.
func prepare(tb testing.TB, programs string) *Server {
	tb.Helper()
	directory, err := os.MkdirTemp("", "pgtest")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(directory) })
	s := &Server{directory: directory, programs: programs, attr: unprivileged(tb, directory)}
	s.options = fmt.Sprintf("-k %s -c listen_addresses='' -c max_connections=200", directory)
	if _, measured := tb.(*testing.B); !measured {
		s.options += " -c fsync=off -c synchronous_commit=off -c full_page_writes=off" // no power cut to survive
	}
	return s
}

func (s *Server) data() string { return filepath.Join(s.directory, "data") }

// run runs one of PostgreSQL's programs.
func (s *Server) run(tb testing.TB, name string, args ...string) {
	tb.Helper()
	cmd := exec.Command(filepath.Join(s.programs, name), args...)
	cmd.Dir, cmd.SysProcAttr = s.directory, s.attr
	log, err := os.Create(filepath.Join(s.directory, name+".log")) // a file, since the server would keep a pipe open
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

func (s *Server) start(tb testing.TB) {
	tb.Helper()
	s.run(tb, "pg_ctl", "-D", s.data(), "-w", "-o", s.options, "start")
	tb.Cleanup(func() { s.Kill(tb) })
}

// Kill ends the server at once, as a power cut does.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	if !s.stopped {
		s.stopped = true
		s.run(tb, "pg_ctl", "-D", s.data(), "-w", "-m", "immediate", "stop")
	}
}

// Standby starts a server that follows this one. From now on, each transaction waits until the standby has it too.
func (s *Server) Standby(tb testing.TB) *Server {
	tb.Helper()
	standby := prepare(tb, s.programs)
	standby.run(tb, "pg_basebackup", "-h", s.directory, "-U", "mimi", "-D", standby.data(),
		"-R", "--no-sync", "-c", "fast")
	standby.start(tb)
	s.exec(tb, "ALTER ROLE mimi SET synchronous_commit = on", "ALTER SYSTEM SET synchronous_standby_names = '*'",
		"SELECT pg_reload_conf()")
	return standby
}

// Promote makes a standby accept writes.
func (s *Server) Promote(tb testing.TB) {
	tb.Helper()
	s.exec(tb, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_promote(true)")
}

// Socket is the path of the Unix socket.
func (s *Server) Socket() string { return filepath.Join(s.directory, ".s.PGSQL.5432") }

// exec runs statements, one after the other.
func (s *Server) exec(tb testing.TB, statements ...string) {
	tb.Helper()
	db, err := sql.Open("postgres", s.connection("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	for _, statement := range statements {
		if _, err := db.Exec(statement); err != nil {
			tb.Fatalf("%s: %v", statement, err)
		}
	}
}

// Database creates an empty database and returns its connection string.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	name := fmt.Sprintf("test%d", s.databases.Add(1))
	s.exec(tb, "CREATE DATABASE "+name)
	return s.connection(name)
}

func (s *Server) connection(database string) string {
	return fmt.Sprintf("postgres://mimi@/%s?host=%s&sslmode=disable", database, s.directory)
}

// unprivileged makes root's processes run as the user postgres, who then owns the directory. PostgreSQL refuses to run
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
