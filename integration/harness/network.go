// Package harness runs real homeservers with MIMI Portability as processes on loopback, for tests and for the demo, and
// drives them as Matrix clients do. It leaves nothing behind: no file outside its directory, no process.
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
	// Postgres makes an empty PostgreSQL database for each server and returns its connection string. Nil: the servers use
	// SQLite.
	Postgres func() string
	// NATS are the addresses of NATS servers for all homeservers. None: each has one inside.
	NATS []string
	// Links are the ways by which the servers reach each other. Nil: directly.
	Links *Links
	// Host is the host in the names of servers to come, localhost or another name of it. Ports tell servers apart, but
	// not for a server ACL.
	Host string

	dir    string
	binary string
	roots  *x509.CertPool

	mu      sync.Mutex
	servers []*Server
}

// NewNetwork prepares a network below dir, which must exist, and builds the server command once per process.
func NewNetwork(dir string) (*Network, error) {
	binary, err := buildOnce()
	if err != nil {
		return nil, err
	}
	n := &Network{dir: dir, binary: binary, Host: "localhost"}
	return n, n.makeCertificate()
}

// Close kills what still runs. Files stay: the directory is its owner's.
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

// Client is an HTTP client that trusts the network's certificate.
func (n *Network) Client() *http.Client {
	config := &tls.Config{RootCAs: n.roots}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
}

// CertFile is the file with the certificate that all servers trust, in PEM.
func (n *Network) CertFile() string { return filepath.Join(n.dir, "tls.crt") }

// KeyFile is the file with the key of the certificate, in PEM.
func (n *Network) KeyFile() string { return filepath.Join(n.dir, "tls.key") }

// makeCertificate writes a self-signed certificate for localhost and its address. The servers find it by SSL_CERT_FILE,
// so that they run with TLS validation on, as in earnest.
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

// BinaryEnv names an environment variable with the path of a dendrite-mimi that is already built.
const BinaryEnv = "DENDRITE_MIMI"

// buildOnce gives the path of the server command. The directory it is built in outlives the process: the build cache
// makes the next one cheap, and a fixed name keeps it from piling up.
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
func Build(path string, flags ...string) error {
	const command = "github.com/matrix-org/dendrite/contrib/mimi/cmd/dendrite-mimi"
	args := append(append([]string{"build", "-o", path}, flags...), command)
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("build dendrite-mimi: %w\n%s", err, out)
	}
	return nil
}

// RemoveBinary deletes what NewNetwork has built. Call it when the process is done with networks.
func RemoveBinary() error { return os.RemoveAll(binaryDir()) }

// freePort finds a TCP port on loopback below the range that the kernel gives to outgoing connections, so that it is
// still free when a server is started again.
func freePort(ctx context.Context) (int, error) {
	const low, high, attempts = 20000, 32000, 100
	var listen net.ListenConfig
	for range attempts {
		offset, err := rand.Int(rand.Reader, big.NewInt(high-low))
		if err != nil {
			return 0, err
		}
		port := low + int(offset.Int64())
		l, err := listen.Listen(ctx, "tcp", fmt.Sprintf("localhost:%d", port))
		if err == nil {
			return port, l.Close()
		}
	}
	return 0, errors.New("no free port on loopback")
}
