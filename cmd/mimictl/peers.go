package main

import (
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"os"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/federation/dial"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/fsck"
)

// asker makes a function that asks other servers, with requests signed by a homeserver's key. It calls only permitted
// addresses, because users and peers have chosen the server names in the database.
func asker(keyFile string, privateNetworks bool) (fsck.Ask, error) {
	text, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "MATRIX PRIVATE KEY" || len(block.Bytes) != ed25519.SeedSize {
		return nil, fmt.Errorf("%s is not the private key of a homeserver", keyFile)
	}
	identity := func(server string) (*fclient.SigningIdentity, error) {
		return &fclient.SigningIdentity{
			ServerName: spec.ServerName(server), KeyID: gomatrixserverlib.KeyID(block.Headers["Key-ID"]),
			PrivateKey: ed25519.NewKeyFromSeed(block.Bytes),
		}, nil
	}
	transport := dial.NewTransport(dial.Allowed{PrivateNetworks: privateNetworks, IPLiterals: true}, false, time.Now)
	web := fclient.NewClient(
		fclient.WithTransport(transport), fclient.WithTimeout(30*time.Second), fclient.WithUserAgent("mimictl"))
	sender := &federation.Sender{Client: federation.NewClient(identity, web, time.Now)}
	return sender.AskStatus, nil
}
