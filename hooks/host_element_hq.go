//go:build element_hq

// This file is all that is for the maintained fork of Dendrite alone. For Dendrite v0.13.8, the file host.go
// takes its place.

package hooks

import (
	"errors"
	"fmt"
	"slices"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"

	"github.com/matrix-org/dendrite/contrib/mimi/federation/dial"
	"github.com/matrix-org/dendrite/setup/config"
)

// NewDNSCache makes the homeserver's own cache of DNS answers, as Dendrite's main does. It is nil if the configuration
// switches the cache off.
func NewDNSCache(cfg *config.Dendrite) *fclient.DNSCache {
	c, f := cfg.Global.DNSCache, &cfg.FederationAPI
	if !c.Enabled {
		return nil
	}
	return fclient.NewDNSCache(c.CacheSize, c.CacheLifetime, f.AllowNetworkCIDRs, f.DenyNetworkCIDRs)
}

func newAuthEvents(state []gomatrixserverlib.PDU) (*gomatrixserverlib.AuthEvents, error) {
	return gomatrixserverlib.NewAuthEvents(state)
}

// networks returns the networks to which the module connects: those to which the homeserver itself connects. Its
// deny_networks forgets some addresses that are not public. They need a network of their own in allow_networks.
func networks(section *Federation, host *config.FederationAPI) (dial.Networks, error) {
	if section.AllowNetworks != nil || section.DenyNetworks != nil {
		return dial.Networks{}, errors.New(
			"this homeserver has its own lists: move federation.allow_networks and deny_networks to the section federation_api")
	}
	var plain config.FederationAPI
	plain.Defaults(config.DefaultOpts{})
	lifted := slices.DeleteFunc(plain.DenyNetworkCIDRs, func(n string) bool {
		return slices.Contains(host.DenyNetworkCIDRs, n)
	})
	n, err := networksOf(host.AllowNetworkCIDRs, host.DenyNetworkCIDRs, lifted)
	if err != nil {
		err = fmt.Errorf("federation_api.%w", err)
	}
	return n, err
}
