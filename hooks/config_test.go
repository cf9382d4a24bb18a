package hooks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/setup/config"
)

func load(t *testing.T, text string) (*Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dendrite.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return loadConfig(path)
}

func TestConfigDefaults(t *testing.T) {
	want := defaultConfig()
	for _, text := range []string{"", "version: 2\nglobal: {typo: 1, nested: {x: [1]}}\n", "mimi_portability: {}",
		"mimi_portability: {enabled: false}"} {
		got, err := load(t, text)
		if diff := cmp.Diff(&want, got); err != nil || diff != "" {
			t.Errorf("%q: %v %s", text, err, diff)
		}
	}
}

func TestConfig(t *testing.T) {
	got, err := load(t, `
version: 2
mimi_portability:
  enabled: true
  database: {connection_string: "file:/x.db", max_open_conns: 7, max_idle_conns: 3, conn_max_lifetime: 60}
  retention: {moved: 24h, log: 2160h, offers: 48h, evidence: 8760h}
  max_group_state_bytes: 1000
  body_memory_bytes: 2000
  requests_per_second: {user: 7, server: 70}
  federation: {allow_networks: [10.0.0.0/8], deny_networks: [10.1.0.0/16], allow_ip_literals: true}
  decide_by: 2m
  cipher_suites: [{id: 0x004d, hash: SHA-256, signature: Ed25519, encryption_key_bytes: 1216, leaves: 4096}]
  offer_life: 5m
  policy: {source: any_member, deny_servers: [evil.example], quotas: {groups: 5}}
client_api: {registration_disabled: true}
`)
	want := defaultConfig()
	want.Enabled = true
	want.Database = config.DatabaseOptions{ConnectionString: "file:/x.db", MaxOpenConnections: 7, MaxIdleConnections: 3,
		ConnMaxLifetimeSeconds: 60}
	want.Retention = Retention{Moved: 24 * time.Hour, Log: 90 * 24 * time.Hour, Offers: 48 * time.Hour,
		Evidence: 365 * 24 * time.Hour}
	want.MaxGroupStateBytes, want.BodyMemoryBytes = 1000, 2000
	want.RequestsPerSecond = RequestsPerSecond{User: 7, Server: 70}
	want.Federation = Federation{AllowNetworks: []string{"10.0.0.0/8"}, DenyNetworks: []string{"10.1.0.0/16"},
		AllowIPLiterals: true}
	want.DecideBy = 2 * time.Minute
	want.OfferLife = 5 * time.Minute
	want.CipherSuites = []CipherSuite{{0x4d, "SHA-256", "Ed25519", 1216, 4096}}
	want.Policy.Source = policy.SourceAnyMember
	want.Policy.DenyServers = []string{"evil.example"}
	want.Policy.Quotas.Groups = 5
	if diff := cmp.Diff(&want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

// Profile, section 8: "policy: draft".
func TestConfigDraftPolicy(t *testing.T) {
	got, err := load(t, "mimi_portability: {policy: draft}")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(policy.Draft(), got.Policy.Policy); diff != "" {
		t.Error(diff)
	}
}

func TestConfigRefusals(t *testing.T) {
	for text, want := range map[string]string{
		"mimi_portability: {enable: true}":                                "enable",
		"mimi_portability: {enabled: perhaps}":                            "perhaps",
		"mimi_portability: {database: {connection: x}}":                   "connection",
		"mimi_portability: {retention: {moved: 0s}}":                      "retention",
		"mimi_portability: {retention: {log: -1h}}":                       "retention",
		"mimi_portability: {requests_per_second: {user: -1}}":             "requests_per_second",
		"mimi_portability: {requests_per_second: {client: 1}}":            "client",
		"mimi_portability: {federation: {allow_everything: true}}":        "allow_everything",
		"mimi_portability: {federation: {allow_private_networks: false}}": "allow_networks",
		"mimi_portability: {max_group_state_bytes: 0}":                    "max_group_state_bytes",
		"mimi_portability: {max_group_state_bytes: 64MiB}":                "64MiB",
		"mimi_portability: {decide_by: 0s}":                               "decide_by",
		"mimi_portability: {decide_by: 11m}":                              "decide_by",
		"mimi_portability: {decide_by: 60}":                               "decide_by",
		"mimi_portability: {cipher_suites: [{id: 1}]}":                    "cipher_suites",
		"mimi_portability: {offer_life: 0s}":                              "offer_life",
		"mimi_portability: {offer_life: 11m}":                             "offer_life",
		"mimi_portability: {policy: strict}":                              "strict",
		"mimi_portability: {policy: {sauce: x}}":                          "sauce",
		"mimi_portability: {policy: {source: everybody}}":                 "everybody",
		"mimi_portability: {policy: {quotas: {grops: 1}}}":                "grops",
		"mimi_portability: true":                                          "true",
		"mimi_portability: {enabled: true\n":                              "yaml",
		"mimi_portability: {enabled: true, enabled: false}":               "enabled",
	} {
		_, err := load(t, text)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "mimi_portability") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := loadConfig(filepath.Join(t.TempDir(), "none.yaml")); err == nil {
		t.Error("no file, no error")
	}
}

// The module's own database comes first, then the homeserver's, then a file.
func TestConfigConnection(t *testing.T) {
	for _, test := range []struct{ own, global, want string }{
		{"file:own.db", "postgres:///global", "file:own.db"},
		{"", "postgres:///global", "postgres:///global"},
		{"", "", "file:mimi_portability.db"},
	} {
		cfg := defaultConfig()
		cfg.Database.ConnectionString = config.DataSource(test.own)
		if got := cfg.connection(config.DataSource(test.global)); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

// wantErr wants an error with a text of the lists of networks.
func wantErr(t *testing.T, section *Federation, host *config.FederationAPI, text string) {
	t.Helper()
	if _, err := networks(section, host); err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want %q", err, text)
	}
}
