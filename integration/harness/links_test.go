package harness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
)

func TestMain(m *testing.M) { os.Exit(Run(m)) }

// TestLinks: each fault affects one direction between two servers and nothing else. Mend ends it.
func TestLinks(t *testing.T) {
	n := NewTestNetwork(t)
	n.Links = NewLinks()
	a, b := n.StartServer(t, Section), n.StartServer(t, Section)
	alice, bob := RegisterUser(t, a, "alice", false), RegisterUser(t, b, "bob", false)
	outside := n.Client()
	defer outside.CloseIdleConnections()
	asked := func(u *User, ds *Server, patience time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var refusal *Error
		err := u.Do(ctx, http.MethodGet, clientapi.PathPrefix+"/ds/"+ds.Name+"/groups/AAAA", nil, nil)
		return errors.As(err, &refusal) && refusal.Status == http.StatusNotFound
	}
	if !asked(alice, b, Patience) || !asked(bob, a, Patience) { // each also fetches the other's keys
		t.Fatal("a server does not answer")
	}
	for _, f := range []Fault{Refused, BlackHole, AnswersLost, Slow} {
		for range 2 { // on a new connection, then on an existing one
			n.Links.Set(a, b, f)
			patience := 2 * lostAnswers
			if f == Slow {
				patience = Patience
			}
			if asked(alice, b, patience) != (f == Slow) {
				t.Errorf("requests from a to b do not behave as fault %d says", f)
			}
			if !asked(bob, a, Patience) || !answers(t.Context(), outside, "https://"+b.Name+"/_dendrite/monitor/up") {
				t.Errorf("fault %d affects other connections", f)
			}
			n.Links.Mend()
			err := Poll(Within(t), func(context.Context) error { // one request may be on a connection that Mend resets
				if !asked(alice, b, Patience) {
					return fmt.Errorf("fault %d does not end", f)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
}
