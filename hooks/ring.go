package hooks

import "github.com/matrix-org/gomatrixserverlib"

// guarded is Dendrite's key ring with another client for its fetchers. Dendrite's own client connects to any address
// for the key of a server that only claims to have signed a request.
func guarded(ring *gomatrixserverlib.KeyRing, client gomatrixserverlib.KeyClient) *gomatrixserverlib.KeyRing {
	g := &gomatrixserverlib.KeyRing{KeyDatabase: patientKeys{ring.KeyDatabase}}
	for _, fetcher := range ring.KeyFetchers {
		switch f := fetcher.(type) {
		case *gomatrixserverlib.DirectKeyFetcher:
			direct := *f
			direct.Client = client
			g.KeyFetchers = append(g.KeyFetchers, &direct)
		case *gomatrixserverlib.PerspectiveKeyFetcher:
			notary := *f
			notary.Client = client
			g.KeyFetchers = append(g.KeyFetchers, &notary)
		}
	}
	return g
}
