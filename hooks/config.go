package hooks

import (
	"errors"
	"fmt"
	"os"

	"gopkg.in/yaml.v2"
)

// Config is the section mimi_portability of dendrite.yaml. Every key but enabled may be left out.
//
//	mimi_portability:
//	  enabled: true
//	  database:
//	    connection_string: file:mimi_portability.db
//	  max_group_state_bytes: 67108864
//	  federation:
//	    allow_private_networks: false
//	    allow_ip_literals: false
type Config struct {
	// Enabled turns MIMI Portability on. When it is false or the section is absent, there is no route, no table and no worker.
	Enabled bool `yaml:"enabled"`

	// Database is where groups, logs and migrations are kept. It is never shared with one of Dendrite's SQLite files.
	Database Database `yaml:"database"`

	// MaxGroupStateBytes is the largest group, exported, that this server takes over or hands over.
	MaxGroupStateBytes int64 `yaml:"max_group_state_bytes"`

	// Federation bounds which servers this one talks to when a client or a peer names them.
	Federation Federation `yaml:"federation"`
}

// Database says which database to use.
type Database struct {
	// ConnectionString is file:PATH for SQLite. A relative path is relative to the working directory, as in the rest of the file.
	ConnectionString string `yaml:"connection_string"`
}

// Federation bounds outgoing requests. A server name in a request is chosen by whoever sends it.
type Federation struct {
	// AllowPrivateNetworks permits requests to loopback, private, link-local and other addresses that are not public.
	AllowPrivateNetworks bool `yaml:"allow_private_networks"`

	// AllowIPLiterals permits server names that are IP addresses.
	AllowIPLiterals bool `yaml:"allow_ip_literals"`
}

func defaultConfig() Config {
	return Config{
		Database:           Database{ConnectionString: "file:mimi_portability.db"},
		MaxGroupStateBytes: 64 << 20,
	}
}

// loadConfig reads the section from the homeserver's configuration file. A key it does not know is an error that names it, for
// a misspelt limit is no limit.
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
	return nil
}

// ignored is a section that is Dendrite's business: nothing in it is looked at.
type ignored struct{}

func (*ignored) UnmarshalYAML(func(any) error) error { return nil }
