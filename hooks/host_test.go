//go:build !element_hq

package hooks

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/matrix-org/dendrite/contrib/mimi/federation/dial"
	"github.com/matrix-org/dendrite/setup/config"
)

// allowLoopback permits connections to loopback. It returns the lines of the section that do so.
func allowLoopback(*config.Dendrite) (section string) {
	return "  federation: {allow_networks: [127.0.0.0/8, '::1/128']}\n"
}

// TestNetworks: the section has the two lists. The default is all public addresses.
func TestNetworks(t *testing.T) {
	prefixes := func(texts ...string) (all []netip.Prefix) {
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	for _, test := range []struct {
		section Federation
		want    dial.Networks
	}{
		{Federation{}, dial.Networks{Deny: []netip.Prefix{}, Private: []netip.Prefix{}}},
		{Federation{AllowNetworks: []string{"0.0.0.0/0", "192.168.1.5/32"}, DenyNetworks: []string{"1.1.1.0/24"}},
			dial.Networks{Deny: prefixes("1.1.1.0/24"), Allow: prefixes("0.0.0.0/0", "192.168.1.5/32"),
				Private: prefixes("192.168.1.5/32")}},
		{Federation{AllowNetworks: []string{}},
			dial.Networks{Deny: []netip.Prefix{}, Allow: []netip.Prefix{}, Private: []netip.Prefix{}}},
	} {
		got, err := networks(&test.section, nil)
		same := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
		if diff := cmp.Diff(test.want, got, same); err != nil || diff != "" {
			t.Errorf("%+v: %v %s", test.section, err, diff)
		}
	}
	wantErr(t, &Federation{AllowNetworks: []string{"10.0.0.0"}}, nil, "federation.allow_networks: ")
	wantErr(t, &Federation{DenyNetworks: []string{"::ffff:10.0.0.0/104"}}, nil, "federation.deny_networks: ")
}
