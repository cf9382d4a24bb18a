package harness

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"text/template"
	"time"
)

// Patience is how long the harness waits for a process to start or stop.
const Patience = 30 * time.Second

// Section is the default section mimi_portability of a server: the module is enabled, may connect to loopback, and has
// no limit on requests. The fork of Dendrite has its own list of networks. The module's database is a SQLite file, or
// the homeserver's database if that is on PostgreSQL.
const Section = `
mimi_portability:
  enabled: true
  database: {connection_string: "{{.Database "mimi_portability"}}"}
  federation: {allow_ip_literals: false{{if not .IsFork}}, allow_networks: [127.0.0.0/8, "::1/128"]{{end}}}
  requests_per_second: {user: 0, server: 0}
`

// Server is one homeserver. Its process can stop and start again.
type Server struct {
	Name string // the Matrix server name, HOST:PORT
	Dir  string
	URL  string // of the client API, http://localhost:PORT

	Env    []string // added to the test's environment, from the next start on
	Listen string   // the address for peers, if the network has Links or a Front; else the server listens at its name

	NATSServers []string // the addresses of NATS servers; if empty, the homeserver runs its own
	Postgres    string   // the connection string of its only database; empty for SQLite files

	pprof   string // the address of its profiles, HOST:PORT
	network *Network
	binary  string // of a Dendrite
	program program
	process *process
	pid     atomic.Int64 // of the latest process
}

// program is the homeserver that a Server runs.
type program struct {
	config  string // a template, executed with the Server
	command func(*Server) *exec.Cmd
}

// IsFork reports whether the server runs on the maintained fork of Dendrite.
func (s *Server) IsFork() (bool, error) {
	info, err := buildinfo.ReadFile(s.binary)
	if err != nil {
		return false, err
	}
	return strings.HasPrefix(info.Main.Path, "github.com/element-hq/"), nil
}

// Upgrade replaces the program of a stopped server by another build of it. The server keeps its files and databases.
func (s *Server) Upgrade(binary string) error {
	s.binary = binary
	return s.writeConfig()
}

// Database returns the connection string of a component's own database. It is empty if all components share one.
func (s *Server) Database(component string) string {
	if s.Postgres != "" {
		return ""
	}
	return "file:" + filepath.Join(s.Dir, component+".db")
}

// Store returns the connection string of the module's database, for a server with Section.
func (s *Server) Store() string { return cmp.Or(s.Postgres, s.Database("mimi_portability")) }

// process is one run of a server.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
	err    error         // of cmd.Wait; valid when exited is closed
}

// Start starts a new homeserver and waits until it serves. section is its section mimi_portability in YAML. It is a
// template: {{.Dir}} is the server's directory, and {{.Database "name"}} is the connection string of a database.
func (n *Network) Start(ctx context.Context, section string) (*Server, error) {
	return n.start(ctx, program{dendriteConfig + section, (*Server).dendrite})
}

func (n *Network) start(ctx context.Context, p program) (*Server, error) {
	s, err := n.prepare(ctx, p)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.servers = append(n.servers, s)
	n.mu.Unlock()
	return s, s.Start(ctx)
}

// prepare chooses a server's ports and writes its files.
func (n *Network) prepare(ctx context.Context, p program) (*Server, error) {
	plain, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	secure, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	profiles, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	s := &Server{
		Name:        fmt.Sprintf("%s:%d", n.Host, secure),
		Dir:         filepath.Join(n.dir, fmt.Sprintf("server-%d", secure)),
		URL:         fmt.Sprintf("http://localhost:%d", plain),
		NATSServers: n.NATS,
		pprof:       fmt.Sprintf("localhost:%d", profiles),
		network:     n,
		binary:      n.Binary,
		program:     p,
	}
	if n.Postgres != nil {
		s.Postgres = n.Postgres()
	}
	if front := n.front(); front != nil {
		behind, err := freePort(ctx)
		if err != nil {
			return nil, err
		}
		s.Listen = fmt.Sprintf("localhost:%d", behind)
		if err := front(ctx, s); err != nil {
			return nil, err
		}
	}
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		return nil, err
	}
	return s, errors.Join(s.writeSigningKey(), s.writeConfig())
}

func (s *Server) writeSigningKey() error {
	id, seed := make([]byte, 4), make([]byte, 32)
	_, _ = rand.Read(id) // crypto/rand does not fail
	_, _ = rand.Read(seed)
	keyID := "ed25519:" + strings.NewReplacer("-", "a", "_", "b").Replace(base64.RawURLEncoding.EncodeToString(id))
	return writePEM(s.SigningKeyFile(), &pem.Block{
		Type: "MATRIX PRIVATE KEY", Headers: map[string]string{"Key-ID": keyID}, Bytes: seed,
	})
}

func (s *Server) writeConfig() error {
	text, err := template.New("homeserver.yaml").Parse(s.program.config)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := text.Execute(&out, s); err != nil {
		return err
	}
	return os.WriteFile(s.configFile(), out.Bytes(), 0o600)
}

func (s *Server) configFile() string { return filepath.Join(s.Dir, "homeserver.yaml") }

// LogFile returns the path of the server's log.
func (s *Server) LogFile() string { return filepath.Join(s.Dir, "homeserver.log") }

// Start starts a stopped server again and waits until it serves.
func (s *Server) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	if err := s.launch(); err != nil {
		return err
	}
	return s.awaitReady(ctx)
}

func (s *Server) launch() error {
	log, err := os.OpenFile(s.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own descriptor
	cmd := s.program.command(s)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, log, log
	cmd.Env = append(append(os.Environ(), "SSL_CERT_FILE="+s.network.CertFile(), "PPROFLISTEN="+s.pprof), s.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	s.process = p
	s.pid.Store(int64(cmd.Process.Pid))
	return nil
}

// trusted returns the environment variable by which a client in Node trusts the network's servers. A client needs it
// for direct requests to other homeservers.
func (s *Server) trusted() []string {
	if s.network == nil {
		return nil // a stand-in for a server, with plain HTTP
	}
	return []string{"NODE_EXTRA_CA_CERTS=" + s.network.CertFile()}
}

func (s *Server) dendrite() *exec.Cmd {
	return exec.Command(s.binary,
		"-config", s.configFile(),
		"-http-bind-address", strings.TrimPrefix(s.URL, "http://"),
		"-https-bind-address", cmp.Or(s.Listen, s.Name),
		"-tls-cert", s.network.CertFile(), "-tls-key", s.network.KeyFile())
}

// awaitReady polls until both listeners answer.
func (s *Server) awaitReady(ctx context.Context) error {
	const forClients, forServers = "/_matrix/client/versions", "/_matrix/federation/v1/version"
	client := s.network.Client()
	defer client.CloseIdleConnections()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if answers(ctx, client, s.URL+forClients) && answers(ctx, client, "https://"+s.Name+forServers) {
			return nil
		}
		select {
		case <-s.process.exited:
			return fmt.Errorf("%s ended at its start: %w\n%s", s.Name, s.process.err, s.Log())
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve: %w\n%s", s.Name, ctx.Err(), s.Log())
		case <-tick.C:
		}
	}
}

func answers(ctx context.Context, client *http.Client, url string) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(r)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

// Kill ends the process and its children at once, like a power cut.
func (s *Server) Kill() error {
	if s.process == nil {
		return nil
	}
	err := syscall.Kill(-s.process.cmd.Process.Pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		err = nil // it has ended by itself
	}
	<-s.process.exited
	s.process = nil
	return err
}

// Exited returns a channel that closes when the process, which must have been started, has ended.
func (s *Server) Exited() <-chan struct{} { return s.process.exited }

// Pause stops the process until Resume, like a machine that swaps.
func (s *Server) Pause() error { return syscall.Kill(-s.process.cmd.Process.Pid, syscall.SIGSTOP) }

// Resume continues a paused process.
func (s *Server) Resume() error { return syscall.Kill(-s.process.cmd.Process.Pid, syscall.SIGCONT) }

// Stop asks the process to end and waits for its end. It returns an error if the process ends with an error, or not
// within Patience.
//
// Dendrite v0.13.8 can panic, as its log shows, when it stops while it stores a room event. Stop then starts it and
// stops it once more, so that it closes its databases.
func (s *Server) Stop() error {
	err := s.terminate()
	if err == nil || !strings.Contains(s.Log(), "level=panic") {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	return errors.Join(s.Start(ctx), s.terminate())
}

func (s *Server) terminate() error {
	p := s.process
	if p == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	late := time.NewTimer(Patience)
	defer late.Stop()
	select {
	case <-p.exited:
		s.process = nil
		if p.err != nil {
			return fmt.Errorf("%s: %w: %s", s.Name, p.err, s.Log())
		}
		return nil
	case <-late.C:
		return errors.Join(fmt.Errorf("%s does not stop", s.Name), s.Kill())
	}
}

// PeakMemory returns the largest resident memory of the running process so far, in bytes.
func (s *Server) PeakMemory() (int64, error) { return s.memory("VmHWM:") }

// memory returns one of the sizes in the status of the running process, in bytes.
func (s *Server) memory(field string) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid.Load()))
	if err != nil {
		return 0, err
	}
	_, size, _ := strings.Cut(string(status), field)
	var kib int64
	_, err = fmt.Sscanf(size, "%d kB", &kib)
	return kib << 10, err
}

// PID returns the id of the running process.
func (s *Server) PID() int { return int(s.pid.Load()) }

// Log returns the end of the server's log, at most 16 KiB.
func (s *Server) Log() string {
	const limit = 16 << 10
	text, err := os.ReadFile(s.LogFile())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-limit):])
}

// SharedSecret is the secret for the registration of accounts at the harness's servers.
const SharedSecret = "harness"

// MetricsUser is the name and the password for /metrics at the harness's servers.
const MetricsUser = "metrics"

// dendriteConfig is a complete dendrite.yaml without rate limits. Guests may register, as registration is enabled.
// Other users need the shared secret: without it, Dendrite asks for a captcha, which nobody can solve here. Dendrite
// v0.13.8 ignores the lists of networks.
const dendriteConfig = `version: 2
global:
  server_name: "{{.Name}}"
  private_key: {{.Dir}}/matrix_key.pem
  cache: {max_size_estimated: 32mb, max_age: 1h}
  metrics: {enabled: true, basic_auth: {username: ` + MetricsUser + `, password: ` + MetricsUser + `}}
  jetstream: {storage_path: {{.Dir}}/jetstream, topic_prefix: Dendrite,
    addresses: [{{range .NATSServers}}"{{.}}", {{end}}]}
{{if .Postgres}}  database: {connection_string: "{{.Postgres}}", max_open_conns: 20, max_idle_conns: 5,
    conn_max_lifetime: -1}
{{end}}client_api:
  registration_disabled: false
  enable_registration_captcha: true
  recaptcha_public_key: none
  recaptcha_private_key: none
  registration_shared_secret: ` + SharedSecret + `
  rate_limiting: {enabled: false}
federation_api:
  database: {connection_string: "{{.Database "federationapi"}}"}
  prefer_direct_fetch: true
  deny_networks: []
  allow_networks: [0.0.0.0/0, "::/0"]
key_server: {database: {connection_string: "{{.Database "keyserver"}}"}}
media_api: {database: {connection_string: "{{.Database "mediaapi"}}"}, base_path: {{.Dir}}/media}
mscs: {database: {connection_string: "{{.Database "mscs"}}"}}
room_server: {database: {connection_string: "{{.Database "roomserver"}}"}, default_room_version: "11"}
sync_api: {database: {connection_string: "{{.Database "syncapi"}}"}, fulltext: {enabled: false}}
relay_api: {database: {connection_string: "{{.Database "relayapi"}}"}}
user_api: {account_database: {connection_string: "{{.Database "userapi"}}"}, bcrypt_cost: 4}
logging: [{type: std, level: info}]
`
