// Package harness runs real homeservers with MIMI Portability as processes on loopback, for tests and for the demo. It
// uses the homeservers through the APIs for Matrix clients and servers. At the end it leaves no process, and no file
// outside the directory of its network and the directory that RemoveBinary deletes.
package harness

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// Network is a set of homeservers that trust one certificate.
type Network struct {
	// Postgres makes an empty PostgreSQL database for a server and returns its connection string. If nil, the servers use
	// SQLite.
	Postgres func() string
	// NATS are the addresses of NATS servers for all homeservers. If empty, each homeserver runs its own.
	NATS []string
	// Links are the connections between the servers. If nil, the servers reach each other directly.
	Links *Links
	// Front, if set, listens at the name of each server that starts next, in the server's place. The server itself listens
	// at Server.Listen. Front is for a network without Links.
	Front func(ctx context.Context, s *Server) error
	// Host is the host in the names of the servers started next: localhost, or another name of this machine. Servers on
	// one host differ in their ports, but a server ACL ignores ports.
	Host string
	// Binary is the dendrite-mimi that the servers started next run.
	Binary string

	dir   string
	roots *x509.CertPool

	mu      sync.Mutex
	servers []*Server
}

// NewNetwork prepares a network with its files in dir, which must exist. The first call in a process builds the server
// command.
func NewNetwork(dir string) (*Network, error) {
	binary, err := buildOnce()
	if err != nil {
		return nil, err
	}
	n := &Network{dir: dir, Binary: binary, Host: "localhost"}
	return n, n.makeCertificate()
}

// Close kills the servers that still run. The files stay: the caller deletes the directory.
func (n *Network) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, s := range n.servers {
		errs = append(errs, s.Kill())
	}
	if n.Links != nil {
		errs = append(errs, n.Links.close())
	}
	return errors.Join(errs...)
}

// front returns the function that listens at a server's name in the server's place, or nil.
func (n *Network) front() func(context.Context, *Server) error {
	if n.Links != nil {
		return n.Links.listen
	}
	return n.Front
}

// Client returns an HTTP client that trusts the network's certificate.
func (n *Network) Client() *http.Client {
	config := &tls.Config{RootCAs: n.roots}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
}

// CertFile returns the path of the certificate that all servers trust, in PEM.
func (n *Network) CertFile() string { return filepath.Join(n.dir, "tls.crt") }

// KeyFile returns the path of the certificate's private key, in PEM.
func (n *Network) KeyFile() string { return filepath.Join(n.dir, "tls.key") }

// makeCertificate writes a self-signed certificate for localhost and 127.0.0.1. SSL_CERT_FILE names it for the servers,
// so that they validate certificates as in production.
func (n *Network) makeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	n.roots = x509.NewCertPool()
	n.roots.AddCert(cert)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return errors.Join(
		writePEM(n.CertFile(), &pem.Block{Type: "CERTIFICATE", Bytes: der}),
		writePEM(n.KeyFile(), &pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	)
}

func writePEM(path string, block *pem.Block) error {
	return os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
}

// BinaryEnv is the environment variable with the path of a dendrite-mimi that is built already.
const BinaryEnv = "DENDRITE_MIMI"

// buildOnce builds the server command and returns its path. With BinaryEnv it builds nothing and returns that path.
var buildOnce = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(BinaryEnv); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(binaryDir(), "dendrite-mimi")
	return path, Build(path)
})

func binaryDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("dendrite-mimi-%d", os.Getpid()))
}

// Build builds the server command into a file, with flags for go build.
func Build(path string, flags ...string) error { return build("dendrite-mimi", path, flags) }

// Tool builds mimictl once and returns its path. RemoveBinary deletes it.
var Tool = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaryDir(), "mimictl")
	return path, build("mimictl", path, nil)
})

func build(command, path string, flags []string) error {
	args := append(append([]string{"build", "-o", path}, flags...),
		"github.com/matrix-org/dendrite/contrib/mimi/cmd/"+command)
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", command, err, out)
	}
	return nil
}

// RemoveBinary deletes what this process has built. Call it when the process needs no more networks.
func RemoveBinary() error { return os.RemoveAll(binaryDir()) }

// Play gives play a network in a temporary directory. The network, the directory and the program end with Play.
func Play(play func(*Network) error) (err error) {
	dir, err := os.MkdirTemp("", "mimiport-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, RemoveBinary(), os.RemoveAll(dir)) }()
	n, err := NewNetwork(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	return play(n)
}

// taken are the ports that this process has taken. Each has an abstract Unix socket, which ends with the process.
var taken sync.Map

// freePort takes a free TCP port on loopback, which no other process of tests gets before this one ends. The port is
// below those that the kernel chooses for outgoing connections, so that it is still free when a server starts again.
func freePort(ctx context.Context) (int, error) {
	const low, high, attempts = 20000, 32000, 100
	var listen net.ListenConfig
	for range attempts {
		offset, err := rand.Int(rand.Reader, big.NewInt(high-low))
		if err != nil {
			return 0, err
		}
		port := low + int(offset.Int64())
		mark, err := listen.Listen(ctx, "unix", fmt.Sprintf("@mimiport-test-port-%d", port))
		if err != nil {
			continue
		}
		l, err := listen.Listen(ctx, "tcp", fmt.Sprintf("localhost:%d", port))
		if err != nil {
			mark.Close()
			continue
		}
		taken.Store(port, mark)
		return port, l.Close()
	}
	return 0, errors.New("no free port on loopback")
}
