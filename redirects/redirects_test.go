package redirects_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/proof"
	"github.com/matrix-org/dendrite/contrib/mimi/redirects"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/engine"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/postgres"
)

const (
	serverA = "a.example"
	serverB = "b.example"
	alice   = "@alice:a.example"
	bob     = "@bob:b.example"
	secret  = `"external-sender key"`
)

// stage has a table of server A with one group that has moved to B. Another group is still at A.
type stage struct {
	gone, here []byte
	move       string
	file       string
	exported   redirects.Exported
	server     *redirects.Server
	peer       *fclient.SigningIdentity // B
	now        time.Time
}

func newStage(t *testing.T) *stage {
	t.Helper()
	database := "file:" + filepath.Join(t.TempDir(), "mimi.db")
	store, err := engine.Open(t.Context(), database, postgres.Pool{})
	require(t, err)
	w := deliverytest.New(1, map[string]storage.Store{serverA: store, serverB: memory.New()})
	s := &stage{file: filepath.Join(t.TempDir(), "redirects.db"), now: time.Now()}
	for _, id := range []*[]byte{&s.gone, &s.here} {
		group, members, err := deliverytest.NewGroup(t.Context(), w, serverA, alice, bob)
		require(t, err)
		if *id = group.ID; id == &s.here {
			break
		}
		proposed, err := members[1].NewMigration(t.Context(), serverB)
		require(t, err)
		st, err := members[1].Initiate(t.Context(), proposed)
		require(t, err)
		s.move = st.MigrationID
		require(t, w.Run(t.Context()))
	}
	require(t, store.PutSetting(t.Context(), "external-sender/mls10/ed25519", json.RawMessage(secret)))
	snapshot, err := engine.OpenSnapshot(t.Context(), database)
	require(t, err)
	old := gomatrixserverlib.OldVerifyKey{ExpiredTS: 1}
	old.Key = make([]byte, ed25519.PublicKeySize)
	n, err := redirects.Export(t.Context(), &redirects.Source{
		Store: snapshot, Readers: w.Service(serverA).Readers,
		Home: redirects.Home{
			Server: serverA, OldKeys: map[gomatrixserverlib.KeyID]gomatrixserverlib.OldVerifyKey{"ed25519:old": old},
		},
	}, s.file)
	require(t, err)
	require(t, snapshot.Close())
	require(t, store.Close())
	s.exported, s.peer = *n, newIdentity(serverB)
	s.open(t, w)
	return s
}

func (s *stage) open(t *testing.T, w *deliverytest.World) {
	t.Helper()
	published, err := json.Marshal(gomatrixserverlib.ServerKeyFields{
		ServerName: serverB, ValidUntilTS: spec.AsTimestamp(s.now.Add(time.Hour)),
		VerifyKeys: map[gomatrixserverlib.KeyID]gomatrixserverlib.VerifyKey{
			s.peer.KeyID: {Key: spec.Base64Bytes(s.peer.PrivateKey.Public().(ed25519.PublicKey))},
		},
	})
	require(t, err)
	published, err = gomatrixserverlib.SignJSON(serverB, s.peer.KeyID, s.peer.PrivateKey, published)
	require(t, err)
	s.server, err = redirects.Open(t.Context(), s.file, redirects.Deps{
		Key: *newIdentity(""), Web: fclient.NewClient(fclient.WithTransport(answers(published))),
		Engines: deliverytest.Engines(), Now: func() time.Time { return s.now }, Log: slog.New(slog.DiscardHandler),
	})
	require(t, err)
	t.Cleanup(func() { require(t, s.server.Close()) })
}

func require(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newIdentity(server spec.ServerName) *fclient.SigningIdentity {
	seed := sha256.Sum256([]byte(server))
	return &fclient.SigningIdentity{ServerName: server, KeyID: "ed25519:1", PrivateKey: ed25519.NewKeyFromSeed(seed[:])}
}

// answers is a network that gives the same answer to each request.
type answers []byte

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Request: r, Body: io.NopCloser(bytes.NewReader(a))}, nil
}

// do sends a request as it is.
func (s *stage) do(r *http.Request) (status int, body []byte) {
	if r.Body == nil {
		r.Body = http.NoBody // as a server has it
	}
	w := httptest.NewRecorder()
	s.server.Handler.ServeHTTP(w, r)
	return w.Code, w.Body.Bytes()
}

// ask sends a signed request of B, for a user of B unless user is empty, and returns the status and the error code.
func (s *stage) ask(t *testing.T, method, path, user string, content any) (status int, code string) {
	t.Helper()
	uri := federation.PathPrefix + path
	if user != "" {
		uri += "?user_id=" + url.QueryEscape(user)
	}
	fr := fclient.NewFederationRequest(method, serverB, serverA, uri)
	if content != nil {
		require(t, fr.SetContent(content))
	}
	require(t, fr.Sign(serverB, s.peer.KeyID, s.peer.PrivateKey))
	r, err := fr.HTTPRequest()
	require(t, err)
	r.RequestURI = uri
	status, body := s.do(r)
	var answer struct {
		Code string `json:"errcode"`
	}
	require(t, json.Unmarshal(body, &answer))
	return status, strings.TrimPrefix(answer.Code, "IO.GITHUB.MIMIPORT.")
}

// TestExportHasNoSecret: a table has the groups that have gone and the users who may read them, and no secret.
func TestExportHasNoSecret(t *testing.T) {
	s := newStage(t)
	if s.exported.Groups != 1 || s.exported.Rooms != 1 || s.exported.Here != 1 {
		t.Errorf("exported %+v", s.exported)
	}
	data, err := os.ReadFile(s.file)
	require(t, err)
	info, err := os.Stat(s.file)
	require(t, err)
	switch {
	case bytes.Contains(data, []byte(secret)):
		t.Error("the table has a key of the homeserver")
	case bytes.Contains(data, s.here):
		t.Error("the table has a group that has not gone")
	case !bytes.Contains(data, s.gone) || !bytes.Contains(data, []byte(bob)):
		t.Error("the table lacks a group that has gone, or its reader")
	case info.Mode().Perm() != 0o600:
		t.Errorf("the table has mode %v", info.Mode())
	}
}

// TestStaticAnswers: members get the redirect, and nobody else does. Whatever would change something is refused, and
// changes nothing.
func TestStaticAnswers(t *testing.T) {
	s := newStage(t)
	before, err := os.ReadFile(s.file)
	require(t, err)
	gone, here := "/groups/"+mimiport.IDText(s.gone), "/groups/"+mimiport.IDText(s.here)
	shown := s.lineage(t)
	claim := &mimiport.LineageClaim{Kind: mimiport.StepRecover, DomainName: serverB, GroupID: s.gone, Term: 2, Epoch: 9}
	require(t, mimiport.Sign(claim, s.peer.PrivateKey))
	message, err := claim.Marshal()
	require(t, err)
	later := *shown
	later.Steps = append(later.Steps[:len(later.Steps):len(later.Steps)], mimiport.LineageStep{
		Kind: mimiport.StepRecover, Claim: &mimiport.SignedMessage{Message: message, KeyID: string(s.peer.KeyID)},
	})
	request := mimiport.MigrationRequest{SourceDomain: serverB, TargetDomain: serverA, GroupID: s.here}
	encoded, err := request.Marshal()
	require(t, err)
	for _, q := range []struct {
		method, path, user string
		content            any
		status             int
		code               string
	}{
		{http.MethodGet, gone, bob, nil, 410, "M_GROUP_MOVED"},
		{http.MethodGet, gone + "/host", bob, nil, 200, ""},
		{http.MethodGet, gone + "/messages", bob, nil, 200, ""},
		{http.MethodPost, gone + "/messages", bob, api.SubmitRequest{Message: []byte{1}}, 410, "M_GROUP_MOVED"},
		{http.MethodDelete, gone, bob, nil, 410, "M_GROUP_MOVED"},
		{http.MethodGet, "/migrations/" + s.move, "", nil, 200, ""},
		{http.MethodGet, "/migrations/" + s.move, bob, nil, 200, ""},
		{http.MethodGet, gone, "@eve:b.example", nil, 403, "M_FORBIDDEN"},
		{http.MethodGet, gone + "/host", "@eve:b.example", nil, 403, "M_FORBIDDEN"},
		{http.MethodGet, gone, alice, nil, 403, "M_FORBIDDEN"},
		{http.MethodGet, here, bob, nil, 404, "M_UNKNOWN_GROUP"},
		{http.MethodPost, "/groups", bob, api.ReserveGroupRequest{RoomID: deliverytest.RoomID}, 403, "M_FORBIDDEN"},
		{http.MethodPost, "/migrations", bob,
			api.MigrationRequestRequest{RoomID: deliverytest.RoomID, MigrationRequest: encoded}, 403, "M_FORBIDDEN"},
		{http.MethodPut, gone + "/lineage", "", api.LineageRequest{Lineage: encode(t, shown)}, 200, ""},
		{http.MethodPut, gone + "/lineage", "", api.LineageRequest{Lineage: encode(t, &later)}, 200, ""},
		{http.MethodGet, "/nothing", bob, nil, 404, "M_UNRECOGNIZED"},
	} {
		if status, code := s.ask(t, q.method, q.path, q.user, q.content); status != q.status || code != q.code {
			t.Errorf("%s %s by %q: got %d %s, want %d %s", q.method, q.path, q.user, status, code, q.status, q.code)
		}
	}
	after, err := os.ReadFile(s.file)
	require(t, err)
	if !bytes.Equal(before, after) {
		t.Error("the table has changed")
	}
}

// lineage returns the lineage of the group that has gone, as the table has it.
func (s *stage) lineage(t *testing.T) *mimiport.Lineage {
	t.Helper()
	store, err := engine.OpenSnapshot(t.Context(), "file:"+s.file)
	require(t, err)
	defer store.Close()
	group, err := store.Group(t.Context(), s.gone)
	require(t, err)
	lineage, err := mimiport.UnmarshalLineage(group.Lineage)
	require(t, err)
	return lineage
}

func encode(t *testing.T, lineage *mimiport.Lineage) []byte {
	t.Helper()
	data, err := lineage.Marshal()
	require(t, err)
	return data
}

// TestStaticNeedsSignature: a request that no server has signed gets nothing, nor does one for another server.
func TestStaticNeedsSignature(t *testing.T) {
	s := newStage(t)
	uri := federation.PathPrefix + "/groups/" + mimiport.IDText(s.gone) + "?user_id=" + url.QueryEscape(bob)
	if status, body := s.do(httptest.NewRequest(http.MethodGet, uri, nil)); status != http.StatusUnauthorized {
		t.Errorf("got %d %s", status, body)
	}
	fr := fclient.NewFederationRequest(http.MethodGet, serverB, "other.example", uri)
	require(t, fr.Sign(serverB, s.peer.KeyID, s.peer.PrivateKey))
	r, err := fr.HTTPRequest()
	require(t, err)
	r.RequestURI = uri
	if status, body := s.do(r); status != http.StatusBadRequest {
		t.Errorf("got %d %s", status, body)
	}
}

// TestStaticPublishes: it publishes the keys of the homeserver, also the old ones, and the feature by which devices
// find out that they may ask.
func TestStaticPublishes(t *testing.T) {
	s := newStage(t)
	_, object := s.do(httptest.NewRequest(http.MethodGet, "/_matrix/key/v2/server", nil))
	keys, err := proof.KeyObject(serverA, bytes.TrimSpace(object))
	require(t, err)
	if own := keys["ed25519:1"]; !own.Until.After(s.now) || keys["ed25519:old"].Public == nil {
		t.Errorf("got %+v", keys)
	}
	var versions struct {
		Features map[string]bool `json:"unstable_features"`
	}
	_, body := s.do(httptest.NewRequest(http.MethodGet, "/_matrix/client/versions", nil))
	require(t, json.Unmarshal(body, &versions))
	if !versions.Features[api.DirectFeature] {
		t.Errorf("got %s", body)
	}
}

// TestOpenRefusesOtherFiles: only what export has made is a table.
func TestOpenRefusesOtherFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mimi.db")
	store, err := engine.Open(t.Context(), "file:"+file, postgres.Pool{})
	require(t, err)
	require(t, store.Close())
	for name, want := range map[string]string{file: "is not a table of redirects", file + "x": "no such file"} {
		s, err := redirects.Open(t.Context(), name, redirects.Deps{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}
