package hooks

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v2"

	"github.com/matrix-org/dendrite/contrib/mimi/federation/dial"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
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
//	    allow_networks: [0.0.0.0/0, '::/0']
//	    deny_networks: []
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

	// Database keeps groups, logs and migrations. Its keys are those of Dendrite's own databases. connection_string is
	// file:PATH for SQLite, relative to the working directory as elsewhere in the file, or
	// postgres://USER:PASSWORD@HOST/DATABASE. The default is the homeserver's global database if that has a connection
	// string, else file:mimi_portability.db. A PostgreSQL database may be one that Dendrite uses too. An SQLite file must
	// not be one of Dendrite's. The limits of connections apply to PostgreSQL only.
	Database config.DatabaseOptions `yaml:"database"`

	// Retention is how long this server keeps things.
	Retention Retention `yaml:"retention"`

	// MaxGroupStateBytes is the size of the largest exported group that this server takes over or hands over.
	MaxGroupStateBytes int64 `yaml:"max_group_state_bytes"`

	// BodyMemoryBytes is the memory that the bodies of all current requests share. One user or server has at most half of
	// it. The default is three times MaxGroupStateBytes, and at least 192 MiB.
	BodyMemoryBytes int64 `yaml:"body_memory_bytes"`

	// RequestsPerSecond bounds the requests of users and servers.
	RequestsPerSecond RequestsPerSecond `yaml:"requests_per_second"`

	// Federation bounds the servers to which this server sends requests when a client or a peer names them.
	Federation Federation `yaml:"federation"`

	// StolenKeys are the ids of past signing keys of this server that somebody else may have. A receipt signed with such a
	// key counts for nothing: otherwise a thief could stop every group with it.
	StolenKeys []string `yaml:"stolen_keys"`

	// CipherSuites are suites of MLS groups in addition to the seven of RFC 9420. The default is none, since
	// implementations disagree about the numbers of post-quantum suites.
	CipherSuites []CipherSuite `yaml:"cipher_suites"`

	// DecideBy is how long a group stays frozen before this server gives its migration up. It is at least 1s and at most
	// 10m. A large group gets more time.
	DecideBy time.Duration `yaml:"decide_by"`

	// OfferLife is how long an offer of this server, as the target, waits for the group: at least 1s, at most 10m.
	OfferLife time.Duration `yaml:"offer_life"`

	// Policy is the default policy for moves of groups from and to this server. A policy that the admin API sets overrides
	// it.
	Policy Policy `yaml:"policy"`
}

// Policy is a policy.Policy. Its keys are the names of the fields in the admin API. The text "draft" or "default"
// stands for all of them.
type Policy struct {
	policy.Policy
	Set []string // the paths of the fields that the section sets
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (p *Policy) UnmarshalYAML(unmarshal func(any) error) error {
	var preset string
	if unmarshal(&preset) == nil {
		decoded, err := policyOf(preset)
		*p = decoded
		return err
	}
	var fields yaml.MapSlice
	if err := unmarshal(&fields); err != nil {
		return err
	}
	decoded, err := policyOf(fields)
	*p = decoded
	return err
}

// Retention says how long this server keeps things that it no longer needs, but that others may ask for. 0 is for ever.
type Retention struct {
	// Moved is how long this server serves the messages and trees of a group that has moved away. It keeps the redirect
	// for ever.
	Moved time.Duration `yaml:"moved"`

	// Log is how long this server keeps accepted messages for devices that are offline. A device that is offline for
	// longer must join again.
	Log time.Duration `yaml:"log"`

	// Offers is how long this server remembers an expired offer that nobody used.
	Offers time.Duration `yaml:"offers"`

	// Evidence is how long this server keeps, for people, messages that another server signed against the rules.
	Evidence time.Duration `yaml:"evidence"`
}

// horizon returns the times before which the retention has passed.
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

// RequestsPerSecond are numbers of requests per second. A burst may have ten times as many. 0 is no bound.
type RequestsPerSecond struct {
	// User is the bound for one user of this server on the routes of clients and administrators, and for the direct
	// requests of one device of another server.
	User int `yaml:"user"`

	// Server is the bound for one other server, for itself and for all of its users together, with the direct requests of
	// their devices.
	Server int `yaml:"server"`
}

// Federation bounds outgoing requests. The sender of a request chooses the server names in it. If Dendrite has the keys
// allow_networks and deny_networks itself, in the section federation_api, those count and these are errors.
type Federation struct {
	// AllowNetworks are the networks to which this server connects. An address that is not public (loopback, private,
	// link-local and others) needs a network of its own, longer than /0. The default is all public addresses.
	AllowNetworks []string `yaml:"allow_networks"`

	// DenyNetworks are networks to which this server never connects, even if they are allowed.
	DenyNetworks []string `yaml:"deny_networks"`

	// AllowPrivateNetworks was a key of earlier versions.
	AllowPrivateNetworks *bool `yaml:"allow_private_networks"`

	// AllowIPLiterals permits server names that are IP addresses.
	AllowIPLiterals bool `yaml:"allow_ip_literals"`
}

// networksOf reads the lists allow_networks and deny_networks. An address that is not public needs an allowed network
// other than the whole address space, or one of private.
func networksOf(allow, deny, private []string) (n dial.Networks, err error) {
	if n.Deny, err = dial.ParseNetworks(deny); err != nil {
		return n, fmt.Errorf("deny_networks: %w", err)
	}
	if n.Private, err = dial.ParseNetworks(append(slices.Clone(allow), private...)); err != nil {
		return n, fmt.Errorf("allow_networks: %w", err)
	}
	if allow != nil {
		n.Allow = slices.Clone(n.Private[:len(allow)])
	}
	n.Private = slices.DeleteFunc(n.Private, func(p netip.Prefix) bool { return p.Bits() == 0 })
	return n, nil
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

	// Leaves is the largest number of leaves of a group, with blank leaves. A tree takes about two keys for each leaf.
	Leaves int `yaml:"leaves"`
}

// mlsLimits returns the limits of RFC 9420's engine. An error names an invalid cipher suite.
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
		Policy:             Policy{Policy: policy.Default()},
	}
}

func (c *Config) limits() delivery.Limits {
	limits := delivery.DefaultLimits()
	limits.GroupStateBytes, limits.DecideBy, limits.OfferLife = c.MaxGroupStateBytes, c.DecideBy, c.OfferLife
	limits.Retention, limits.LogRetention = c.Retention.Moved, c.Retention.Log
	return limits
}

// bodyMemory returns BodyMemoryBytes or its default.
func (c *Config) bodyMemory() int64 {
	return cmp.Or(c.BodyMemoryBytes, max(192<<20, 3*c.MaxGroupStateBytes))
}

// connection returns the connection string for a homeserver with or without a global database.
func (c *Config) connection(global config.DataSource) string {
	return string(cmp.Or(c.Database.ConnectionString, global, "file:mimi_portability.db"))
}

// requireConnection fails unless a connection string has a form that package engine opens. Its text may hold a
// password, so the error shows only what comes before "://".
func requireConnection(connection string) error {
	const path = "database.connection_string"
	scheme, _, isURL := strings.Cut(connection, "://")
	switch {
	case strings.HasPrefix(connection, "file:"), isURL && (scheme == "postgres" || scheme == "postgresql"):
		return nil
	case isURL:
		return fmt.Errorf(
			"%s: %q is no database of this module: write file:mimi.db or postgres://USER:PASSWORD@HOST/DATABASE",
			path, scheme+"://…")
	case strings.Contains(connection, "="): // PostgreSQL's own form
		return nil
	}
	return badKey(path, connection,
		"is neither a file nor a server: write file:%s or postgres://USER:PASSWORD@HOST/DATABASE", mimiport.Clip(connection))
}

// loadConfig reads the section from the homeserver's configuration file. An unknown key is an error that names it,
// since a limit with a misspelt name would have no effect. The warnings are about the rest of the file.
func loadConfig(path string) (cfg *Config, warnings []string, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", sectionName, err)
	}
	section, warnings, err := sectionOf(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	c := defaultConfig()
	if section == nil {
		return &c, warnings, nil
	}
	if err := requireKeys(sectionName, section, reflect.TypeFor[Config]()); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	if text, err = yaml.Marshal(withoutEmpty(section)); err != nil {
		return nil, nil, fmt.Errorf("%s: %s: %w", path, sectionName, err)
	}
	if err := yaml.UnmarshalStrict(text, &c); err != nil {
		return nil, nil, fmt.Errorf("%s: %s: %w", path, sectionName, err)
	}
	if err := c.verify(); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return &c, warnings, nil
}

// withoutEmpty leaves out keys without a value, so that they keep their defaults.
func withoutEmpty(section yaml.MapSlice) (kept yaml.MapSlice) {
	for _, item := range section {
		if inner, ok := item.Value.(yaml.MapSlice); ok {
			item.Value = withoutEmpty(inner)
		}
		if item.Value != nil {
			kept = append(kept, item)
		}
	}
	return kept
}

func (c *Config) verify() error {
	bad := func(key string, value any, format string, args ...any) error {
		return badKey(sectionName+"."+key, value, format, args...)
	}
	if n := c.MaxGroupStateBytes; n <= 0 {
		return bad("max_group_state_bytes", n, "is too small: write a number above 0, such as 67108864")
	}
	for key, n := range map[string]int{
		"requests_per_second.user": c.RequestsPerSecond.User, "requests_per_second.server": c.RequestsPerSecond.Server,
		"database.max_open_conns": c.Database.MaxOpenConnections, "database.max_idle_conns": c.Database.MaxIdleConnections,
	} {
		if n < 0 {
			return bad(key, n, "is negative: write a number from 0")
		}
	}
	for key, d := range map[string]time.Duration{"decide_by": c.DecideBy, "offer_life": c.OfferLife} {
		if d < time.Second || d > storage.MaxWait {
			return bad(key, d, "is out of range: write a time from 1s to %s", storage.MaxWait)
		}
	}
	for key, d := range map[string]time.Duration{
		"moved": c.Retention.Moved, "log": c.Retention.Log, "offers": c.Retention.Offers, "evidence": c.Retention.Evidence,
	} {
		if d < 0 {
			return bad("retention."+key, d, "is negative: write a time such as 168h")
		}
	}
	if c.Retention.Moved == 0 {
		return bad("retention.moved", c.Retention.Moved, "is too short for members who were away: write 168h")
	}
	if c.Federation.AllowPrivateNetworks != nil {
		return bad("federation.allow_private_networks", *c.Federation.AllowPrivateNetworks,
			"is gone: name each network of your own in allow_networks, for example [0.0.0.0/0, '::/0', 192.168.1.5/32]")
	}
	_, err := c.mlsLimits()
	return err
}
