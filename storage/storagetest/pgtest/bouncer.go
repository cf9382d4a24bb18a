package pgtest

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/needs"
)

// Bouncer starts a PgBouncer in front of a server, with a pool mode: session, transaction or statement. It returns the
// connection string that leads through it to a database of the server.
func Bouncer(tb testing.TB, server *Server, mode, connection string) string {
	tb.Helper()
	program := needs.PgBouncer(tb)
	directory, err := os.MkdirTemp("", "pgbouncer")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(directory) })
	attr := unprivileged(tb, directory)
	config := filepath.Join(directory, "pgbouncer.ini")
	text := fmt.Sprintf("[databases]\n* = host=%s user=mimi\n[pgbouncer]\nauth_type = any\nlisten_addr =\n"+
		"unix_socket_dir = %s\npool_mode = %s\nmax_client_conn = 100\ndefault_pool_size = 40\n",
		server.directory, directory, mode)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(program, config)
	if attr == nil {
		attr = new(syscall.SysProcAttr)
	}
	attr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr = attr
	log, err := os.Create(filepath.Join(directory, "log"))
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	await(tb, filepath.Join(directory, ".s.PGSQL.6432"), ended, log.Name())
	u, err := url.Parse(connection)
	if err != nil {
		tb.Fatal(err)
	}
	query := u.Query()
	query.Set("host", directory)
	query.Set("port", "6432")
	u.RawQuery = query.Encode()
	return u.String()
}

// await waits until a process listens on a socket.
func await(tb testing.TB, socket string, ended chan error, log string) {
	tb.Helper()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			output, _ := os.ReadFile(log)
			tb.Fatalf("pgbouncer has ended: %v\n%s", err, output)
		default:
		}
	}
}
