package clientapi

import (
	"context"
	"encoding/json"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
)

const opKey = "look up key"

// keyRoute serves the key objects of servers. A client cannot use the homeserver as a notary of Matrix: that takes a
// Host header, which a browser does not let it set (profile, section 7).
func keyRoute(services Services, home *Home) edge.Route {
	return edge.Route{Route: api.GetServerKey, Serve: func(ctx context.Context, r *edge.Request) (any, error) {
		if server := r.Vars["serverName"]; !services.IsLocal(server) {
			return nil, mimiport.Errorf(opKey, mimiport.KindForbidden, "%s is another server", mimiport.Clip(server))
		}
		server := r.Vars["keyServer"]
		if err := services.requireName(server); err != nil {
			return nil, err
		}
		return home.currentKey(ctx, server, r.Vars["keyId"])
	}}
}

// currentKey returns the server's signed key object that publishes a current key. It asks the server unless this
// server has fetched a current object already. The error is KindBadSignature if the server publishes no such key.
func (h *Home) currentKey(ctx context.Context, server, id string) (json.RawMessage, error) {
	for _, find := range []func() (map[string]proof.Key, error){
		func() (map[string]proof.Key, error) { return h.Keys.Known(ctx, server) },
		func() (map[string]proof.Key, error) { return h.Keys.Live(ctx, server, []string{id}) },
	} {
		found, err := find()
		if err != nil {
			return nil, err
		}
		if key := found[id]; key.Object != nil && key.Until.After(h.Now()) {
			return key.Object, nil
		}
	}
	const why = "%s publishes no current key %q"
	return nil, mimiport.Errorf(opKey, mimiport.KindBadSignature, why, server, mimiport.Clip(id))
}
