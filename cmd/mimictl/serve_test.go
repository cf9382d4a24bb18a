package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"

	"github.com/gorilla/mux"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

// adminToken is the access token of the administrator of serve.
const adminToken = "the-token"

// serve [NAME=FILE,...] starts the admin API of a Delivery Service A with two groups, and sets MIMICTL_SERVER. The
// group HERE is at A, and GONE has moved to B by the migration MOVE. The routes of the names answer with the text of
// the files: these are routes which only a whole homeserver can answer. Each request gets the next file, and the last
// one again and again.
func serve(ts *testscript.TestScript, _ bool, args []string) {
	w := deliverytest.New(1, map[string]storage.Store{serverA: memory.New(), serverB: memory.New()})
	ctx := context.Background()
	for variable, move := range map[string]bool{"HERE": false, "GONE": true} {
		group, m, err := deliverytest.NewGroup(ctx, w, serverA, alice, bob)
		ts.Check(err)
		ts.Setenv(variable, mimiport.IDText(group.ID))
		if move {
			proposed, err := m[1].NewMigration(ctx, serverB)
			ts.Check(err)
			st, err := m[1].Initiate(ctx, proposed)
			ts.Check(err)
			ts.Check(w.Run(ctx))
			ts.Setenv("MOVE", st.MigrationID)
		}
	}
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	for _, arg := range args {
		name, files, _ := strings.Cut(arg, "=")
		var texts []string
		for file := range strings.SplitSeq(files, ",") {
			texts = append(texts, ts.ReadFile(file))
		}
		var asked atomic.Int64
		router.HandleFunc(adminPath+"/"+name, func(w http.ResponseWriter, _ *http.Request) {
			n := min(int(asked.Add(1)), len(texts))
			_, _ = w.Write([]byte(texts[n-1])) // the client is gone otherwise
		})
	}
	edge.Mount(router.PathPrefix(adminPath).Subrouter(), adminapi.Routes(w.Service(serverA)), authenticate,
		edge.NewBodies(256<<20), slog.New(slog.DiscardHandler))
	server := httptest.NewServer(router)
	ts.Defer(server.Close)
	ts.Setenv("MIMICTL_SERVER", server.URL)
	ts.Setenv("MIMICTL_TOKEN", adminToken)
}

func authenticate(r *http.Request) (api.Caller, error) {
	if r.Header.Get("Authorization") != "Bearer "+adminToken {
		return api.Caller{}, mimiport.Errorf("authenticate", mimiport.KindForbidden, "not an administrator")
	}
	return api.Caller{UserID: alice, Server: serverA, Admin: true}, nil
}
