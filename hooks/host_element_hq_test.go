//go:build element_hq

package hooks

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/matrix-org/dendrite/setup/config"
)

// allowLoopback permits connections to loopback. It returns the lines of the section that do so.
func allowLoopback(cfg *config.Dendrite) (section string) {
	cfg.FederationAPI.DenyNetworkCIDRs, cfg.FederationAPI.AllowNetworkCIDRs = nil, []string{"0.0.0.0/0", "::/0"}
	return ""
}

// TestNetworks: the homeserver's own lists count. A network that the operator has taken out of deny_networks is
// allowed. Other addresses that are not public are not.
func TestNetworks(t *testing.T) {
	var host config.FederationAPI
	host.Defaults(config.DefaultOpts{})
	for _, test := range []struct {
		lifted  string
		private []string
	}{
		{"", nil},
		{"192.168.0.0/16", []string{"192.168.0.0/16"}},
	} {
		host.DenyNetworkCIDRs = slices.DeleteFunc(host.DenyNetworkCIDRs, func(n string) bool { return n == test.lifted })
		n, err := networks(&Federation{}, &host)
		var private []string
		for _, p := range n.Private {
			private = append(private, p.String())
		}
		if err != nil || !slices.Equal(private, test.private) || len(n.Deny) != len(host.DenyNetworkCIDRs) ||
			!slices.Equal(n.Allow, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}) {
			t.Errorf("without %q in deny_networks: %+v, %v", test.lifted, n, err)
		}
	}
	wantErr(t, &Federation{AllowNetworks: []string{}}, &host, "section federation_api")
	wantErr(t, &Federation{DenyNetworks: []string{"10.0.0.0/8"}}, &host, "section federation_api")
	host.AllowNetworkCIDRs = []string{"everything"}
	wantErr(t, &Federation{}, &host, "federation_api.allow_networks: ")
}
