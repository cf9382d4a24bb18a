package dial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// Networks are the addresses to which a Transport connects. The zero value permits all public addresses.
type Networks struct {
	Deny    []netip.Prefix // never, whatever the others say
	Allow   []netip.Prefix // no others; nil is all
	Private []netip.Prefix // of the addresses that are not public, these alone
}

// Anywhere permits all addresses.
var Anywhere = Networks{Private: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}

// ParseNetworks reads networks in CIDR notation, such as 192.168.1.0/24.
func ParseNetworks(texts []string) ([]netip.Prefix, error) {
	networks := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		n, err := netip.ParsePrefix(text)
		if err == nil && n.Addr().Is4In6() {
			err = fmt.Errorf("the network %s embeds an IPv4 address: write it as IPv4", text)
		}
		if err != nil {
			return nil, err
		}
		networks[i] = n
	}
	return networks, nil
}

// guardedDialer makes a dialer that connects only to permitted addresses. The dialer checks the address of each
// connection, so no DNS answer can bypass the check (CVE-2024-52594).
func guardedDialer(permitted Networks) *net.Dialer {
	return &net.Dialer{
		Timeout: 5 * time.Second,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return permitted.require(address)
		},
	}
}

// require fails unless an address with port is permitted.
func (n *Networks) require(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	addr := ap.Addr().Unmap().WithZone("") // no network contains an address with a zone
	in := func(networks []netip.Prefix) bool {
		return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) })
	}
	switch {
	case in(n.Deny) || n.Allow != nil && !in(n.Allow):
		return fmt.Errorf("%s: %w", address, errDenied)
	case !isPublic(addr) && !in(n.Private):
		return fmt.Errorf("%s: %w", address, errPrivate)
	}
	return nil
}

// notPublic lists the special-purpose ranges that the methods of netip.Addr do not know (IANA special-purpose address
// registries, RFC 6890), and the IPv6 ranges that embed IPv4 addresses.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // carrier-grade NAT
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"),
	netip.MustParsePrefix("64:ff9b::/96"), // NAT64
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/23"), // Teredo among others
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"), // 6to4
	netip.MustParsePrefix("3fff::/20"),
	netip.MustParsePrefix("5f00::/16"),
	netip.MustParsePrefix("fec0::/10"),
}

func isPublic(a netip.Addr) bool {
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(a) {
			return false
		}
	}
	return true
}
