//go:build !element_hq

// This file is all that is for Dendrite v0.13.8 alone. For the maintained fork of Dendrite, the file host_element_hq.go
// takes its place.

package hooks

import (
	"fmt"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"

	"github.com/matrix-org/dendrite/contrib/mimi/federation/dial"
	"github.com/matrix-org/dendrite/setup/config"
)

// NewDNSCache makes the homeserver's own cache of DNS answers, as Dendrite's main does. It is nil if the configuration
// switches the cache off.
func NewDNSCache(cfg *config.Dendrite) *fclient.DNSCache {
	c := cfg.Global.DNSCache
	if !c.Enabled {
		return nil
	}
	return fclient.NewDNSCache(c.CacheSize, c.CacheLifetime)
}

func newAuthEvents(state []gomatrixserverlib.PDU) (*gomatrixserverlib.AuthEvents, error) {
	auth := gomatrixserverlib.NewAuthEvents(state)
	return &auth, nil
}

// networks returns the networks to which the module connects. This homeserver has no such lists of its own.
func networks(section *Federation, _ *config.FederationAPI) (dial.Networks, error) {
	n, err := networksOf(section.AllowNetworks, section.DenyNetworks, nil)
	if err != nil {
		err = fmt.Errorf("federation.%w", err)
	}
	return n, err
}
