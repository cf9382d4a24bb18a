package main

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/urfave/cli/v3"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/federation/dial"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/fsck"
)

// peerFlags are the flags of a command that asks other servers. when begins their usage.
func peerFlags(when string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "ca", Usage: when + "also trust the certificate authorities in `FILE`, PEM"},
		&cli.BoolFlag{Name: "allow-private-networks", Usage: when + "also ask servers at addresses that are not public"},
	}
}

// peerClient makes a client for requests to other servers. It calls only permitted addresses, because users and peers
// have chosen the server names. It trusts the authorities of caFile in addition to the system's, unless that is empty.
func peerClient(caFile string, privateNetworks bool) (*fclient.Client, error) {
	roots, err := authorities(caFile)
	if err != nil {
		return nil, err
	}
	allowed := dial.Allowed{IPLiterals: true, Roots: roots}
	if privateNetworks {
		allowed.Networks = dial.Anywhere
	}
	transport := dial.NewTransport(allowed, false, time.Now)
	return fclient.NewClient(
		fclient.WithTransport(transport), fclient.WithTimeout(30*time.Second), fclient.WithUserAgent("mimictl")), nil
}

// asker makes a function that asks other servers, with requests signed by a homeserver's key. See peerClient.
func asker(keyFile, caFile string, privateNetworks bool) (fsck.Ask, error) {
	key, err := identityOf(keyFile)
	if err != nil {
		return nil, err
	}
	web, err := peerClient(caFile, privateNetworks)
	if err != nil {
		return nil, err
	}
	identity := func(server string) (*fclient.SigningIdentity, error) {
		own := *key
		own.ServerName = spec.ServerName(server)
		return &own, nil
	}
	sender := &federation.Sender{Client: federation.NewClient(identity, web, time.Now)}
	return sender.AskStatus, nil
}

// identityOf reads the private key of a homeserver. The identity has no name.
func identityOf(keyFile string) (*fclient.SigningIdentity, error) {
	block, err := signingKey(keyFile)
	if err != nil {
		return nil, err
	}
	return &fclient.SigningIdentity{
		KeyID: gomatrixserverlib.KeyID(block.Headers["Key-ID"]), PrivateKey: ed25519.NewKeyFromSeed(block.Bytes),
	}, nil
}

// signingKey reads the private key of a homeserver. The header Key-ID has its id.
func signingKey(file string) (*pem.Block, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "MATRIX PRIVATE KEY" || len(block.Bytes) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s is not the private key of a homeserver", file)
	}
	return block, nil
}

// authorities returns the system's certificate authorities and those in a file. It returns nil, which is the system's,
// for no file.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM", file)
	}
	return roots, nil
}
