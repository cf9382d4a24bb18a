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
	cfg, _, err := loadConfig(path)
	return cfg, err
}

func TestConfigDefaults(t *testing.T) {
	want := defaultConfig()
	for _, text := range []string{"", "version: 2\nglobal: {typo: 1, nested: {x: [1]}}\n", "mimi_portability: {}",
		"mimi_portability: {enabled: false}", "mimi_portability:\n", "mimi_portability: {retention: , policy: }"} {
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
	want.Policy.Set = []string{"deny_servers", "quotas.groups", "source"}
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

// TestConfigRefusals: each message names the key by its path, the value, and the remedy, and no type of Go.
func TestConfigRefusals(t *testing.T) {
	for text, want := range map[string][]string{
		"{enable: true}":                                {".enable: ", "write enabled"},
		"{enabled: perhaps}":                            {`.enabled: "perhaps"`, "true nor false"},
		"{database: {connection: x}}":                   {".database.connection: ", "use one of connection_string"},
		"{database: {max_open_conns: -3}}":              {".database.max_open_conns: -3 ", "from 0"},
		"{database: {max_idle_conns: many}}":            {`.database.max_idle_conns: "many"`, "whole number"},
		"{retentoin: {moved: 1h}}":                      {".retentoin: ", "write retention"},
		"{retention: {moved: 0s}}":                      {".retention.moved: 0s ", "write 168h"},
		"{retention: {log: -1h}}":                       {".retention.log: -1h", "write a time"},
		"{requests_per_second: {user: -1}}":             {".requests_per_second.user: -1 ", "from 0"},
		"{requests_per_second: {client: 1}}":            {".requests_per_second.client: ", "use one of user, server"},
		"{federation: {allow_everything: true}}":        {".federation.allow_everything: ", "use one of"},
		"{federation: {allow_private_networks: false}}": {".federation.allow_private_networks: false ", "allow_networks"},
		"{max_group_state_bytes: 0}":                    {".max_group_state_bytes: 0 ", "above 0"},
		"{max_group_state_bytes: 64MiB}":                {`.max_group_state_bytes: "64MiB"`, "without a unit"},
		"{decide_by: 0s}":                               {".decide_by: 0s ", "from 1s to 10m0s"},
		"{decide_by: 11m}":                              {".decide_by: 11m0s ", "from 1s to 10m0s"},
		"{decide_by: 60}":                               {".decide_by: 60 ", "such as 60s"},
		"{cipher_suites: [{id: 1}]}":                    {"cipher_suites"},
		"{cipher_suites: [{id: 70000}]}":                {".cipher_suites[0].id: 70000 ", "in range"},
		"{cipher_suites: {id: 1}}":                      {".cipher_suites: ", "is not a list"},
		"{stolen_keys: [1]}":                            {".stolen_keys[0]: 1 ", "between quotes"},
		"{offer_life: 11m}":                             {".offer_life: 11m0s ", "from 1s to 10m0s"},
		"{policy: []}":                                  {".policy: [] ", "is not an object"},
		"{policy: strict}":                              {`.policy: preset: "strict"`, "default or draft"},
		"{policy: {sauce: x}}":                          {".policy: sauce: ", "use one of source"},
		"{policy: {source: everybody}}":                 {`.policy: source: "everybody"`, "one of power_level"},
		"{policy: {quotas: {grops: 1}}}":                {".policy: quotas.grops: ", "use one of groups"},
		"{policy: {quotas: {groups: -1}}}":              {".policy: quotas.groups: -1 ", "from 0"},
		"{policy: {deny_servers: ['https://x']}}":       {`.policy: deny_servers: "https://x"`, "such as b.example"},
		"true":                            {": true ", "enabled: true"},
		"{enabled: true\n":                {"not YAML"},
		"{enabled: true, enabled: false}": {".enabled: ", "twice"},
		"{}\nmimi_portability: {}":        {": the file has this section twice"},
	} {
		_, err := load(t, "mimi_portability: "+text)
		if err == nil {
			t.Errorf("%q is no error", text)
			continue
		}
		for _, part := range append(want, "mimi_portability") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q: %v: want %q", text, err, part)
			}
		}
		requireNoGo(t, text, err)
	}
	if _, _, err := loadConfig(filepath.Join(t.TempDir(), "none.yaml")); err == nil {
		t.Error("no file, no error")
	}
}

// requireNoGo fails if a message for operators shows types of Go.
func requireNoGo(t *testing.T, what string, err error) {
	t.Helper()
	for _, word := range []string{
		"hooks.", "struct", "map[", "interface", "time.Duration", "uint16", "int64", "unmarshal",
	} {
		if strings.Contains(err.Error(), word) {
			t.Errorf("%q: %v: shows %q", what, err, word)
		}
	}
}

// TestConfigWarnings: a misspelt name of the section is no error, since Dendrite ignores it too, but a warning.
func TestConfigWarnings(t *testing.T) {
	for text, want := range map[string]bool{
		"mimi_portabilty: {enabled: true}": true, "mimi-portability: {}": true, "Mimi_Portability:": true,
		"client_api: {}": false, "mimi_portability: {enabled: false}": false,
	} {
		path := filepath.Join(t.TempDir(), "dendrite.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, warnings, err := loadConfig(path)
		if err != nil || cfg.Enabled || len(warnings) > 0 != want {
			t.Errorf("%q: %v %v", text, warnings, err)
		}
	}
}

// TestConnections: a connection string that no database takes is an error before anything is opened, and shows no
// password.
func TestConnections(t *testing.T) {
	for connection, fine := range map[string]bool{
		"file:mimi.db": true, "postgres://u:secret@h/d": true, "postgresql:///d": true, "user=u dbname=d": true,
		"mimi.db": false, "mysql://u:secret@h/d": false,
	} {
		err := requireConnection(connection)
		if (err == nil) != fine {
			t.Errorf("%s: %v", connection, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "connection_string: ") ||
			!strings.Contains(err.Error(), "write file:")) {
			t.Errorf("%s: %v", connection, err)
		}
	}
}

// TestOpenStoreRefusals: a folder that is not there, and one in the place of the file, are named with a remedy.
func TestOpenStoreRefusals(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "folder.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir + "/none/mimi.db": "the folder " + dir + "/none does not exist", dir + "/folder.db": "is a folder",
	} {
		_, err := openStore(t.Context(), "file:"+path, &config.DatabaseOptions{}, newLogger())
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "connection_string") {
			t.Errorf("%s: %v", path, err)
		}
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
