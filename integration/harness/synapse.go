package harness

import (
	"context"
	"encoding/base64"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/needs"
)

// StartSynapse starts a new Synapse and waits until it serves. root is the folder that integration/synapse/setup.sh has
// made. Synapse runs in a chroot in that folder, so the caller must be root. It writes nothing to the folder.
func (n *Network) StartSynapse(ctx context.Context, root string) (*Server, error) {
	return n.start(ctx, program{synapseConfig, func(s *Server) *exec.Cmd { return s.synapse(root) }})
}

// StartSynapse starts a Synapse or fails the test. It skips the test where Synapse is not installed.
func (n *TestNetwork) StartSynapse(t testing.TB) *Server {
	t.Helper()
	root := needs.Synapse(t)
	return n.started(t, func(ctx context.Context) (*Server, error) { return n.Network.StartSynapse(ctx, root) })
}

// synapse returns the command that runs Synapse in root. Only this process sees the network's folder at /mnt.
func (s *Server) synapse(root string) *exec.Cmd {
	const inside = `mount --bind "$1" "$2/mnt" && exec chroot "$2" python3 -m synapse.app.homeserver -c "$3"`
	config := filepath.Join(s.Mounted(), filepath.Base(s.configFile()))
	return exec.Command("unshare", "--mount", "sh", "-c", inside, "sh", s.network.dir, root, config)
}

// Mounted returns the path of the server's directory inside the chroot of a Synapse.
func (s *Server) Mounted() string { return filepath.Join("/mnt", filepath.Base(s.Dir)) }

// ClientPort returns the port of the client API.
func (s *Server) ClientPort() string { return portOf(s.URL) }

// PeerPort returns the port on which the server listens for its peers.
func (s *Server) PeerPort() string {
	if s.Listen != "" {
		return portOf(s.Listen)
	}
	return portOf(s.Name)
}

func portOf(address string) string { return address[strings.LastIndex(address, ":")+1:] }

// SigningKey returns the server's signing key in the format of Synapse.
func (s *Server) SigningKey() (string, error) {
	id, err := s.Identity()
	if err != nil {
		return "", err
	}
	seed := base64.RawStdEncoding.EncodeToString(id.PrivateKey.Seed())
	return strings.Replace(string(id.KeyID), ":", " ", 1) + " " + seed, nil
}

// synapseConfig is a complete homeserver.yaml. It allows requests to loopback. Users and peers have the default limits.
const synapseConfig = `server_name: "{{.Name}}"
signing_key: "{{.SigningKey}}"
listeners:
  - type: http
    tls: true
    port: {{.PeerPort}}
    bind_addresses: [127.0.0.1]
    resources: [{names: [federation, keys]}]
  - type: http
    port: {{.ClientPort}}
    bind_addresses: [127.0.0.1]
    resources: [{names: [client, keys]}]
tls_certificate_path: /mnt/tls.crt
tls_private_key_path: /mnt/tls.key
federation_custom_ca_list: [/mnt/tls.crt]
ip_range_blacklist: []
database: {name: sqlite3, args: {database: {{.Mounted}}/homeserver.db}}
media_store_path: {{.Mounted}}/media
pid_file: {{.Mounted}}/homeserver.pid
trusted_key_servers: []
registration_shared_secret: ` + SharedSecret + `
macaroon_secret_key: ` + SharedSecret + `
form_secret: ` + SharedSecret + `
report_stats: false
bcrypt_rounds: 4
`
