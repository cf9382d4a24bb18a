package adversary

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

type counter = atomic.Int64

// writeJSON answers with JSON.
func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

// hugeTerm: the attacker's server, which hosts the group, tells bob that the group has moved in term 2^53-1.
func hugeTerm(t *testing.T, g *group) {
	g.toC(t)
	requirePointer := func(at string, term uint64) {
		t.Helper()
		p, err := g.bob.AwaitPointer(harness.Within(t), g.room, at, term)
		if err != nil || p.Term != term {
			t.Fatalf("the pointer to %s has term %d: %v", at, p.Term, err)
		}
	}
	requirePointer(g.c.Name, g.term)
	o := g.offer(t, g.bob, g.b)
	confirmation := harness.Signed(t, g.c.SigningIdentity, &mimiport.MigrationConfirmation{
		DomainName: g.b.Name, Nonce: o.response.Nonce, GroupID: g.id,
	})
	g.c.lies(t, func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/init") {
			return false
		}
		writeJSON(w, http.StatusOK, &api.MigrationStatus{
			MigrationID: o.id, Role: "source", State: string(migration.Moved), GroupID: g.id, RoomID: g.room,
			Source: g.c.Name, Target: g.b.Name, User: g.bob.ID, Term: 1<<53 - 1, Epoch: g.mls.Epoch(),
			MigrationResponse: &api.SignedInfo{Message: encode(t, o.response), KeyID: o.keyID},
			Confirmation:      &api.SignedInfo{Message: confirmation.Message, KeyID: confirmation.KeyID},
		})
		return true
	})
	if st, _, err := g.initiate(t, o, g.bob, bobLeaf); err != nil || st.Term != 1<<53-1 {
		t.Fatalf("bob hears of term %d: %v", st.Term, err)
	}
	requirePointer(g.b.Name, g.term+1)
}

// boundByItsWord: the attacker's server has signed that the group is at B. The room's pointer shows this to the server,
// which then stops.
func boundByItsWord(t *testing.T, g *group) {
	t.Helper()
	err := harness.Poll(harness.Within(t), func(context.Context) error {
		if host := g.where(t, g.bob, g.host); host.DeliveryService != g.b.Name || host.Term != g.term+1 {
			return fmt.Errorf("the group is at %s in term %d", host.DeliveryService, host.Term)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// refusal returns the body of a refusal by the attacker's server: JSON of about this many bytes.
func refusal(t *testing.T, bytes int) []byte {
	t.Helper()
	text := "\x1b[2J\r\n" + strings.Repeat("\x1b[2J\r\nmoved ", bytes/32) // in JSON, about 32 bytes each
	body, err := json.Marshal(map[string]string{"errcode": "M_FORBIDDEN", "error": text})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// refused moves the group to the attacker's server, which refuses. It answers the probe before the freeze with the
// refusal asked. If asked is nil, it answers the content with the refusal content. st is the migration at the source.
func (g *group) refused(t *testing.T, asked, content []byte) (st api.MigrationStatus, err error) {
	t.Helper()
	response := &mimiport.MigrationResponse{Request: mimiport.MigrationRequest{
		SourceDomain: g.a.Name, TargetDomain: g.c.Name, GroupID: g.id, Epoch: g.mls.Epoch(),
	}}
	_, _ = rand.Read(response.Nonce[:]) // crypto/rand does not fail
	o := &offer{response.ID().String(), response, harness.Signed(t, g.c.SigningIdentity, response).KeyID}
	g.c.lies(t, func(w http.ResponseWriter, r *http.Request) bool {
		refuse := func(body []byte) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write(body) // the client may be gone
		}
		switch {
		case strings.HasSuffix(r.URL.Path, "/migrations/"+o.id) && asked != nil:
			refuse(asked)
		case strings.HasSuffix(r.URL.Path, "/migrations/"+o.id):
			offered := &api.MigrationStatus{
				MigrationID: o.id, Role: "target", State: string(migration.Offered), GroupID: g.id,
			}
			writeJSON(w, http.StatusOK, offered)
		case strings.HasSuffix(r.URL.Path, "/migrations/"+o.id+"/content"):
			refuse(content)
		default:
			return false
		}
		return true
	})
	st, _, err = g.initiate(t, o, g.alice, aliceLeaf)
	for ctx := harness.Within(t); err == nil && st.State == string(migration.Frozen) && ctx.Err() == nil; {
		err = g.ask(t, g.alice, http.MethodGet, "/migrations/"+o.id, nil, &st)
	}
	return st, err
}

func longRefusal(t *testing.T, g *group) {
	_, err := g.refused(t, refusal(t, 7<<20), nil)
	requireClipped(t, "7 MB before the freeze", fmt.Sprint(err))
	st, err := g.refused(t, nil, refusal(t, 60<<10))
	if err != nil || st.State != string(migration.Aborted) {
		t.Fatal(st, err)
	}
	requireClipped(t, "60 KB for the content", st.Reason)
	var list struct {
		Items []api.MigrationStatus `json:"items"`
	}
	path := adminapi.PathPrefix + "/migrations"
	if err := g.root[g.a].Do(harness.Within(t), http.MethodGet, path, nil, &list); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		requireClipped(t, "the operator's list", list.Items[i].Reason)
	}
	log, err := os.ReadFile(g.a.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(log, []byte("\x1b[2J")) {
		t.Error("the log has control characters of a peer")
	}
}

// requireClipped fails the test if text of a peer is long or has control characters.
func requireClipped(t *testing.T, name, text string) {
	t.Helper()
	if len(text) > 1024 || strings.ContainsFunc(text, unicode.IsControl) {
		t.Errorf("%s: %d bytes: %.80q", name, len(text), text)
	}
}

func badContents(t *testing.T, g *group) {
	h := g.newHoax(t, g.room, nil)
	good := *h.state
	start := time.Now()
	for range 3 {
		h.state.Base.GroupInfo = bytes.Clone(good.Base.GroupInfo)
		h.state.Base.GroupInfo[len(h.state.Base.GroupInfo)-1] ^= 1 // in its signature
		h.put(t, g.b, time.Now().Add(time.Hour)).requireRefused(t, "content with a bad GroupInfo")
	}
	*h.state = good
	h.put(t, g.b, time.Now().Add(time.Hour)).requireRefused(t, "good content after three bad ones")
	t.Logf("four contents took %d ms", time.Since(start).Milliseconds())
}

// threeAborts: three moves by alice fail. goesOn then checks that bob can still move the group.
func threeAborts(t *testing.T, g *group) {
	for range 3 {
		if st, err := g.refused(t, nil, refusal(t, 0)); err != nil || st.State != string(migration.Aborted) {
			t.Fatal(st, err)
		}
		g.commit(t, g.alice, aliceLeaf)
	}
}
