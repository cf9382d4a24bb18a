package hooks

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"gopkg.in/yaml.v2"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/setup/config"
)

// Config is the section mimi_portability of dendrite.yaml. Every key but enabled may be left out.
//
//	mimi_portability:
//	  enabled: true
//	  database:
//	    connection_string: file:mimi_portability.db
//	    max_open_conns: 10
//	    max_idle_conns: 10
//	    conn_max_lifetime: -1
//	  retention:
//	    moved: 168h
//	    log: 0s
//	    offers: 720h
//	    evidence: 0s
//	  max_group_state_bytes: 67108864
//	  body_memory_bytes: 201326592
//	  requests_per_second:
//	    user: 50
//	    server: 500
//	  federation:
//	    allow_private_networks: false
//	    allow_ip_literals: false
//	  stolen_keys: ['ed25519:old']
//	  cipher_suites:
//	  - {id: 0x004d, hash: SHA-256, signature: Ed25519, encryption_key_bytes: 1216, leaves: 4096}
//	  decide_by: 60s
//	  offer_life: 10m
//	  policy:
//	    source: power_level
//	    target: local_users
type Config struct {
	// Enabled turns MIMI Portability on. When it is false or the section is absent, there is no route, no table and no
	// worker.
	Enabled bool `yaml:"enabled"`

	// Database is where groups, logs and migrations are kept, under the keys of Dendrite's own databases:
	// connection_string is file:PATH for SQLite, relative to the working directory as in the rest of the file, or
	// postgres://USER:PASSWORD@HOST/DATABASE. Without one it is the homeserver's global database if that has a connection
	// string, else file:mimi_portability.db. It may be a PostgreSQL database that Dendrite uses too, but not one of its
	// SQLite files. The limits are for PostgreSQL.
	Database config.DatabaseOptions `yaml:"database"`

	// Retention is how long things are kept.
	Retention Retention `yaml:"retention"`

	// MaxGroupStateBytes is the largest group, exported, that this server takes over or hands over.
	MaxGroupStateBytes int64 `yaml:"max_group_state_bytes"`

	// BodyMemoryBytes is the memory for the bodies of all requests at a time. One user or server has half of it at most.
	// Without it, it is three times MaxGroupStateBytes and at least 192 MiB.
	BodyMemoryBytes int64 `yaml:"body_memory_bytes"`

	// RequestsPerSecond bounds how often users and servers may ask.
	RequestsPerSecond RequestsPerSecond `yaml:"requests_per_second"`

	// Federation bounds which servers this one talks to when a client or a peer names them.
	Federation Federation `yaml:"federation"`

	// StolenKeys are the ids of this server's past signing keys that somebody else may have. A receipt that is signed
	// with one counts for nothing: whoever has the key could stop every group with it.
	StolenKeys []string `yaml:"stolen_keys"`

	// CipherSuites are those of MLS groups besides the seven of RFC 9420. Implementations disagree about the numbers of
	// post-quantum suites, so there is none by default.
	CipherSuites []CipherSuite `yaml:"cipher_suites"`

	// DecideBy is how long a group stays frozen before this server gives its migration up: at least 1s, at most 10m. It
	// grows by itself with the size of the group.
	DecideBy time.Duration `yaml:"decide_by"`

	// OfferLife is how long an offer of this server, as the target, waits for the group: at least 1s, at most 10m.
	OfferLife time.Duration `yaml:"offer_life"`

	// Policy holds the defaults for who may move groups from and to here. What the admin API sets wins over it.
	Policy Policy `yaml:"policy"`
}

// Policy is a policy.Policy under the names that the admin API gives its fields, or "draft" or "default" for all of
// them.
type Policy struct{ policy.Policy }

// UnmarshalYAML implements yaml.Unmarshaler.
func (p *Policy) UnmarshalYAML(unmarshal func(any) error) error {
	var preset string
	var fields map[string]any
	if unmarshal(&preset) == nil {
		fields = map[string]any{"preset": preset}
	} else if err := unmarshal(&fields); err != nil {
		return err
	}
	patch, err := json.Marshal(jsonable(fields))
	if err != nil {
		return err
	}
	p.Policy, err = policy.Default().Merge(patch)
	return err
}

// jsonable gives every map the keys that JSON needs. YAML decodes maps within maps with keys of any type.
func jsonable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			v[key] = jsonable(value)
		}
	case map[any]any:
		plain := make(map[string]any, len(v))
		for key, value := range v {
			plain[fmt.Sprint(key)] = jsonable(value)
		}
		return plain
	}
	return v
}

// Retention says how long is kept what nobody needs any more but may still ask for. 0 is for good.
type Retention struct {
	// Moved is how long the messages and trees of a group that has moved away are served. Its redirect is kept for good.
	Moved time.Duration `yaml:"moved"`

	// Log is how long accepted messages are kept for devices that were away. A device that is away for longer must join
	// anew.
	Log time.Duration `yaml:"log"`

	// Offers is how long an offer that nobody took up is remembered after it has expired.
	Offers time.Duration `yaml:"offers"`

	// Evidence is how long it is kept for people that another server signed what it should not have.
	Evidence time.Duration `yaml:"evidence"`
}

// horizon is what is past its retention.
func (r *Retention) horizon(now time.Time) storage.Horizon {
	ago := func(d time.Duration) time.Time {
		if d == 0 {
			return time.Time{}
		}
		return now.Add(-d)
	}
	return storage.Horizon{
		Log: ago(r.Log), Offers: ago(r.Offers), Evidence: ago(r.Evidence), Nonces: ago(storage.NonceLife),
	}
}

// RequestsPerSecond are numbers of requests. Ten times as many may come at once. 0 is no bound.
type RequestsPerSecond struct {
	// User is what one user of this server may ask on the routes of clients and administrators, and what one device of
	// another server may ask directly.
	User int `yaml:"user"`

	// Server is what one other server may ask, for itself and for all of its users, with what their devices ask directly.
	Server int `yaml:"server"`
}

// Federation bounds outgoing requests. A server name in a request is chosen by whoever sends it.
type Federation struct {
	// AllowPrivateNetworks permits requests to loopback, private, link-local and other addresses that are not public.
	AllowPrivateNetworks bool `yaml:"allow_private_networks"`

	// AllowIPLiterals permits server names that are IP addresses.
	AllowIPLiterals bool `yaml:"allow_ip_literals"`
}

// CipherSuite is a cipher suite of MLS groups.
type CipherSuite struct {
	// ID is its number.
	ID uint16 `yaml:"id"`

	// Hash is SHA-256, SHA-384 or SHA-512.
	Hash string `yaml:"hash"`

	// Signature is Ed25519, Ed448, P-256, P-384 or P-521.
	Signature string `yaml:"signature"`

	// EncryptionKeyBytes is the size of a public key of the KEM.
	EncryptionKeyBytes int `yaml:"encryption_key_bytes"`

	// Leaves is the most leaves that a group has, blank ones too. A tree takes about two keys a leaf.
	Leaves int `yaml:"leaves"`
}

// mlsLimits are what RFC 9420's engine looks at. An error names a cipher suite that it cannot have.
func (c *Config) mlsLimits() (limits mls.Limits, err error) {
	limits = mls.DefaultLimits()
	for _, s := range c.CipherSuites {
		limits, err = limits.WithSuite(mls.CipherSuite{
			ID: s.ID, Hash: s.Hash, Signature: s.Signature, EncryptionKey: s.EncryptionKeyBytes, Leaves: s.Leaves,
		})
		if err != nil {
			return limits, fmt.Errorf("mimi_portability: cipher_suites: %w", err)
		}
	}
	return limits, nil
}

func defaultConfig() Config {
	limits := delivery.DefaultLimits()
	return Config{
		Database: config.DatabaseOptions{MaxOpenConnections: 10, MaxIdleConnections: 10,
			ConnMaxLifetimeSeconds: -1},
		Retention:          Retention{Moved: limits.Retention, Offers: 30 * 24 * time.Hour},
		MaxGroupStateBytes: limits.GroupStateBytes,
		RequestsPerSecond:  RequestsPerSecond{User: 50, Server: 500},
		DecideBy:           limits.DecideBy,
		OfferLife:          limits.OfferLife,
		Policy:             Policy{policy.Default()},
	}
}

func (c *Config) limits() delivery.Limits {
	limits := delivery.DefaultLimits()
	limits.GroupStateBytes, limits.DecideBy, limits.OfferLife = c.MaxGroupStateBytes, c.DecideBy, c.OfferLife
	limits.Retention, limits.LogRetention = c.Retention.Moved, c.Retention.Log
	return limits
}

// bodyMemory is BodyMemoryBytes or its default.
func (c *Config) bodyMemory() int64 {
	return cmp.Or(c.BodyMemoryBytes, max(192<<20, 3*c.MaxGroupStateBytes))
}

// connection is the connection string to use on a homeserver with a global database, or none.
func (c *Config) connection(global config.DataSource) string {
	return string(cmp.Or(c.Database.ConnectionString, global, "file:mimi_portability.db"))
}

// loadConfig reads the section from the homeserver's configuration file. A key it does not know is an error that names
// it, for a misspelt limit is no limit.
func loadConfig(path string) (*Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("mimi_portability: %w", err)
	}
	file := struct {
		Section Config             `yaml:"mimi_portability"`
		Others  map[string]ignored `yaml:",inline"`
	}{Section: defaultConfig()}
	if err := yaml.UnmarshalStrict(text, &file); err != nil {
		return nil, fmt.Errorf("mimi_portability in %s: %w", path, err)
	}
	return &file.Section, file.Section.verify()
}

func (c *Config) verify() error {
	if c.MaxGroupStateBytes <= 0 {
		return errors.New("mimi_portability: max_group_state_bytes must be positive")
	}
	if min(c.RequestsPerSecond.User, c.RequestsPerSecond.Server) < 0 {
		return errors.New("mimi_portability: requests_per_second must not be negative")
	}
	for key, d := range map[string]time.Duration{"decide_by": c.DecideBy, "offer_life": c.OfferLife} {
		if d < time.Second || d > storage.MaxWait {
			return fmt.Errorf("mimi_portability: %s must be between 1s and %s", key, storage.MaxWait)
		}
	}
	if r := &c.Retention; min(r.Moved, r.Log, r.Offers, r.Evidence) < 0 || r.Moved == 0 {
		return errors.New("mimi_portability: retention must not be negative, nor 0 for what has moved")
	}
	_, err := c.mlsLimits()
	return err
}

// ignored is a section that is Dendrite's business: nothing in it is looked at.
type ignored struct{}

func (*ignored) UnmarshalYAML(func(any) error) error { return nil }
