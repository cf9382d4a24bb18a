package federation_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api/openapitest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

const (
	source = "s.example:8448"
	target = "t.example"
	user   = "@alice:s.example:8448"

	virtual = "v.example" // another name of the target

	maxGroupState = 1 << 10
)

var (
	now     = time.UnixMilli(1_800_000_000_000)
	key     = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	id      = mimiport.MigrationID{1, 2, 3}
	group   = []byte{0xfb, 0xff, 3} // "-_8D", which differs in the two alphabets of base64
	alice   = api.Caller{UserID: user, Server: source, To: target}
	server  = api.Caller{Server: source, To: target}
	lineage = &api.LineageRequest{Lineage: []byte("lineage")}
	message = &api.SignedRequest{Message: []byte("signed"), KeyID: "ed25519:a"}
	vote    = &api.SignedRequest{Message: []byte("signed"), KeyID: "ed25519:a", Vote: []byte("named")}
)

// network carries requests to the target's routes, and checks each against openapi.yaml.
type network struct {
	t       *testing.T
	service *service
	handler http.Handler
}

func newNetwork(t *testing.T) *network {
	n := &network{t: t, service: &service{}}
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	routes := federation.Routes(n.service, maxGroupState)
	edge.Mount(router.PathPrefix(federation.PathPrefix).Subrouter(), routes, n.authenticate,
		edge.NewBodies(256<<20), slog.New(slog.DiscardHandler))
	n.handler = openapitest.New(t).Handler(router)
	return n
}

// authenticate checks X-Matrix signatures.
func (n *network) authenticate(r *http.Request) (api.Caller, error) {
	v := &federation.Verifier{
		Server: target, IsLocal: func(s spec.ServerName) bool { return s == target || s == virtual }, Ring: n, Now: clock,
	}
	origin, to, err := v.Verify(r)
	if err != nil {
		return api.Caller{}, err
	}
	return federation.Caller(origin, to, r)
}

func (n *network) VerifyJSONs(
	_ context.Context, requests []gomatrixserverlib.VerifyJSONRequest,
) ([]gomatrixserverlib.VerifyJSONResult, error) {
	results := make([]gomatrixserverlib.VerifyJSONResult, len(requests))
	for i, r := range requests {
		public := key.Public().(ed25519.PublicKey)
		results[i].Error = gomatrixserverlib.VerifyJSON(string(r.ServerName), "ed25519:a", public, r.Message)
	}
	return results, nil
}

func (n *network) DoHTTPRequest(ctx context.Context, r *http.Request) (*http.Response, error) {
	if r.URL.Host != target && r.URL.Host != virtual {
		return nil, fmt.Errorf("no route to %s", r.URL.Host)
	}
	in := httptest.NewRequest(r.Method, r.URL.RequestURI(), r.Body).WithContext(ctx)
	in.Header, in.ContentLength = r.Header, r.ContentLength
	w := httptest.NewRecorder()
	n.handler.ServeHTTP(w, in)
	return w.Result(), nil
}

func client(http federation.Doer) *federation.Client {
	return federation.NewClient(identity, http, clock)
}

func clock() time.Time { return now }

func identity(server string) (*fclient.SigningIdentity, error) {
	return &fclient.SigningIdentity{ServerName: spec.ServerName(server), KeyID: "ed25519:a", PrivateKey: key}, nil
}

// Every call of the client reaches the service with the same arguments, and every answer comes back unchanged.
func TestClientAgainstRoutes(t *testing.T) {
	n := newNetwork(t)
	c := client(n)
	ds := c.API(source, target)
	ctx := context.Background()
	upload := &api.ContentUpload{
		ID: id, SHA256: sha256.Sum256([]byte("content")), KeyID: "ed25519:a", DecideBy: now, Data: []byte("content"),
	}
	bind := &api.BindGroupRequest{Protocol: "mls10", GroupInfo: []byte{1}, RatchetTree: []byte{2}}
	commit := api.SubmitRequest{Message: []byte{1}, GroupInfo: []byte{2}, Welcome: []byte{3}}
	init := &api.MigrationInitRequest{MigrationInit: []byte{9}, KeyID: "ed25519:a", SubmitRequest: commit}
	request := &api.MigrationRequestRequest{MigrationRequest: []byte{8}, RoomID: "!r:x"}
	report := &api.ReportRequest{Seq: 7, Reason: "no"}
	decision := &api.SignedRequest{
		Message: message.Message, KeyID: message.KeyID, Receipt: &api.SignedInfo{Message: []byte{5}, KeyID: "ed25519:a"},
	}
	term := uint64(2)
	claim := &api.ClaimLastResortsRequest{Devices: map[string][]string{user: {"D"}}}

	type outcome = func() (any, error)
	calls := map[string]struct {
		ask  outcome
		want recorded
		res  any
	}{
		"ReserveGroup": {
			func() (any, error) {
				return ds.ReserveGroup(ctx, alice, &api.ReserveGroupRequest{RoomID: "!r:x"})
			},
			recorded{"ReserveGroup", alice, &api.ReserveGroupRequest{RoomID: "!r:x"}}, reserved},
		"BindGroup": {
			func() (any, error) { return ds.BindGroup(ctx, alice, group, bind) },
			recorded{"BindGroup", alice, group, bind}, described,
		},
		"CloseGroup": {
			func() (any, error) { return ds.CloseGroup(ctx, alice, group) }, recorded{"CloseGroup", alice, group}, described,
		},
		"Report": {
			func() (any, error) { return ds.Report(ctx, alice, group, report) },
			recorded{"Report", alice, group, report}, new(api.ReportResponse),
		},
		"Group": {func() (any, error) { return ds.Group(ctx, alice, group) }, recorded{"Group", alice, group}, described},
		"Host":  {func() (any, error) { return ds.Host(ctx, alice, group) }, recorded{"Host", alice, group}, hosted},
		"Drift": {func() (any, error) { return ds.Drift(ctx, alice, group) }, recorded{"Drift", alice, group}, drifted},
		"ShowLineage": {
			func() (any, error) { return ds.ShowLineage(ctx, alice, group, lineage) },
			recorded{"ShowLineage", alice, group, lineage}, hosted},
		"PutLineage": {
			func() (any, error) { return nil, c.PutLineage(ctx, source, target, group, lineage) },
			recorded{"ShowLineage", server, group, lineage}, nil},
		"RatchetTree": {
			func() (any, error) { return ds.RatchetTree(ctx, alice, group, 7) },
			recorded{"RatchetTree", alice, group, uint64(7)}, []byte("tree")},
		"Submit": {
			func() (any, error) { return ds.Submit(ctx, alice, group, &commit) },
			recorded{"Submit", alice, group, &commit}, submitted,
		},
		"Messages": {
			func() (any, error) {
				return ds.Messages(ctx, alice, group, api.MessagesQuery{Term: &term, From: 5, Limit: 10})
			},
			recorded{"Messages", alice, group, api.MessagesQuery{Term: &term, From: 5, Limit: 10}}, logged},
		"Messages of the current term": {
			func() (any, error) { return ds.Messages(ctx, alice, group, api.MessagesQuery{}) },
			recorded{"Messages", alice, group, api.MessagesQuery{}}, logged},
		"RequestMigration": {
			func() (any, error) { return ds.RequestMigration(ctx, alice, request) },
			recorded{"RequestMigration", alice, request}, offered},
		"InitMigration": {
			func() (any, error) { return ds.InitMigration(ctx, alice, id, init) },
			recorded{"InitMigration", alice, id, init}, status},
		"Migration": {
			func() (any, error) { return ds.Migration(ctx, alice, id) }, recorded{"Migration", alice, id}, status,
		},
		"AbortMigration": {
			func() (any, error) { return ds.AbortMigration(ctx, alice, id) }, recorded{"AbortMigration", alice, id}, status,
		},
		"ConfirmMigration": {
			func() (any, error) { return ds.ConfirmMigration(ctx, alice, id, message) },
			recorded{"ConfirmMigration", alice, id, message}, status},
		"PutLastResort": {
			func() (any, error) { return ds.PutLastResort(ctx, alice, &value) },
			recorded{"PutLastResort", alice, &value}, new(api.PutLastResortResponse)},
		"ClaimLastResorts": {
			func() (any, error) { return ds.ClaimLastResorts(ctx, alice, claim) },
			recorded{"ClaimLastResorts", alice, claim}, claimed},
		"AskStatus": {
			func() (any, error) { return c.AskStatus(ctx, source, target, id) }, recorded{"Migration", server, id}, status,
		},
		"AskIntake": {
			func() (any, error) { return c.AskIntake(ctx, source, target, "!r:x", []string{target, source}) },
			recorded{"Intake", source, target, "!r:x", []string{target, source}}, intake,
		},
		"AskIntake of another name": {
			func() (any, error) { return c.AskIntake(ctx, source, virtual, "!r:x", []string{virtual}) },
			recorded{"Intake", source, virtual, "!r:x", []string{virtual}}, intake,
		},
		"PutConfirmation": {
			func() (any, error) { return nil, c.PutConfirmation(ctx, source, target, id, decision) },
			recorded{"ConfirmMigration", server, id, decision}, nil},
		"PutAbort": {
			func() (any, error) { return nil, c.PutAbort(ctx, source, target, id, message) },
			recorded{"AbortFromSource", source, id, message}, nil},
		"PutContent": {
			func() (any, error) { return c.PutContent(ctx, source, target, upload) },
			recorded{"PutContent", source, upload}, vote},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			res, err := call.ask()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(call.want, n.service.last); diff != "" {
				t.Error("the service got another call:", diff)
			}
			if diff := cmp.Diff(call.res, res); diff != "" {
				t.Error("another answer came back:", diff)
			}
		})
	}
}

// A target that still works on a content answers 202, and the client then returns a nil vote.
func TestContentAtWork(t *testing.T) {
	n := newNetwork(t)
	n.service.atWork = true
	up := &api.ContentUpload{
		ID: id, SHA256: sha256.Sum256([]byte("x")), KeyID: "ed25519:a", DecideBy: now, Data: []byte("x"),
	}
	if vote, err := client(n).PutContent(context.Background(), source, target, up); vote != nil || err != nil {
		t.Errorf("got %v, %v", vote, err)
	}
}

// Every kind of error of the service reaches the client as the same kind.
func TestErrorsTravel(t *testing.T) {
	n := newNetwork(t)
	epoch := uint64(7)
	n.service.err = &mimiport.Error{
		Op: "submit", Kind: mimiport.KindWrongEpoch, Info: mimiport.Info{Epoch: &epoch}, Err: errors.New("why"),
	}
	commit := &api.SubmitRequest{Message: []byte{1}}
	_, err := client(n).API(source, target).Submit(context.Background(), alice, group, commit)
	var e *mimiport.Error
	if !errors.As(err, &e) || e.Kind != mimiport.KindWrongEpoch || e.Info.Epoch == nil || *e.Info.Epoch != 7 {
		t.Errorf("got %v", err)
	}
}

// send signs and sends a request that the client would not send.
func (n *network) send(method, uri string, content any, raw io.Reader, length int64) *http.Response {
	n.t.Helper()
	fr := fclient.NewFederationRequest(method, source, target, federation.PathPrefix+uri)
	if content != nil {
		if err := fr.SetContent(content); err != nil {
			n.t.Fatal(err)
		}
	}
	if err := fr.Sign(source, "ed25519:a", key); err != nil {
		n.t.Fatal(err)
	}
	r, err := fr.HTTPRequest()
	if err != nil {
		n.t.Fatal(err)
	}
	if raw != nil {
		r.Body, r.ContentLength = io.NopCloser(raw), length
	}
	resp, err := n.DoHTTPRequest(context.Background(), r)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp
}

func TestBadRequests(t *testing.T) {
	const me = "?user_id=%40alice%3As.example%3A8448"
	groupURI, migrationURI := "/groups/AQID", "/migrations/"+id.String()
	tests := []struct {
		name, method, uri string
		content           any
		status            int
		code              string
	}{
		{"unknown path", "GET", "/rooms" + me, nil, 404, ""},
		{"unknown method", "PATCH", groupURI + me, nil, 405, ""},
		{"a user of another server", "GET", groupURI + "?user_id=%40bob%3At.example", nil, 403, "M_FORBIDDEN"},
		{"a user of the same host at another port", "GET", groupURI + "?user_id=%40bob%3As.example", nil, 403, "M_FORBIDDEN"},
		{"no user id", "GET", groupURI + "?user_id=alice", nil, 400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"},
		{"two users", "GET", groupURI + me + "&user_id=%40bob%3At.example", nil, 400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"},
		{"a server for itself", "GET", groupURI, nil, 403, "M_FORBIDDEN"},
		{"a user instead of the source", "PUT", migrationURI + "/abort" + me, message, 403, "M_FORBIDDEN"},
		{"bad group id", "GET", "/groups/A" + me, nil, 400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"},
		{"bad migration id", "GET", "/migrations/AQID" + me, nil, 400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"},
		{"no epoch", "GET", groupURI + "/tree" + me, nil, 400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"},
		{
			"bad epoch", "GET", groupURI + "/tree" + me + "&epoch=9007199254740992", nil,
			400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE",
		},
		{"bad term", "GET", groupURI + "/messages" + me + "&term=x", nil, 400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"},
		{"bad from", "GET", groupURI + "/messages" + me + "&from=x", nil, 400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"},
		{"bad limit", "GET", groupURI + "/messages" + me + "&limit=x", nil, 400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"},
		{"no body", "POST", groupURI + "/messages" + me, nil, 400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"},
		{"body of another shape", "POST", groupURI + "/messages" + me, []int{1}, 400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"},
		{
			"bad base64", "POST", groupURI + "/messages" + me, map[string]string{"message": "!"},
			400, "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE",
		},
		{"too large", "POST", groupURI + "/messages" + me, strings.Repeat("x", 2<<20), 413, "M_TOO_LARGE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			n.expect(n.send(tt.method, tt.uri, tt.content, nil, 0), tt.status, tt.code)
			if n.service.last != nil {
				t.Error("the service was called", n.service.last)
			}
		})
	}
}

func (n *network) expect(resp *http.Response, status int, code string) {
	n.t.Helper()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	if resp.StatusCode != status || code != "" && !strings.Contains(string(body), `"errcode":"`+code+`"`) {
		n.t.Errorf("got %d %s, want %d %s", resp.StatusCode, body, status, code)
	}
}

func TestBadContent(t *testing.T) {
	const bad = "IO.GITHUB.MIMIPORT.M_BAD_MESSAGE"
	content := []byte("content")
	sum := sha256.Sum256(content)
	large := make([]byte, maxGroupState+64<<10+1)
	largeSum := sha256.Sum256(large)
	uri := func(sum [32]byte, rest string) string {
		return "/migrations/" + id.String() + "/content?sha256=" + mimiport.MigrationID(sum).String() + rest
	}
	const rest = "&key_id=ed25519%3Aa&decide_by=1"
	tests := []struct {
		name, uri string
		raw       []byte
		length    int64
		status    int
		code      string
	}{
		{"another body", uri(sum, rest), []byte("other content"), 13, 400, bad},
		{"a part of it", uri(sum, rest), content[:3], 3, 400, bad},
		{"stated too large", uri(largeSum, rest), large, int64(len(large)), 413, "M_TOO_LARGE"},
		{"unstated too large", uri(largeSum, rest), large, -1, 413, "M_TOO_LARGE"},
		{"no key", uri(sum, "&decide_by=1"), content, 7, 400, bad},
		{"two keys", uri(sum, rest+"&key_id=b"), content, 7, 400, bad},
		{"no time", uri(sum, "&key_id=a"), content, 7, 400, bad},
		{"a malformed time", uri(sum, "&key_id=a&decide_by=now"), content, 7, 400, bad},
		{"no hash", "/migrations/" + id.String() + "/content?" + rest, content, 7, 400, bad},
		{"two hashes", uri(sum, rest+"&sha256=b"), content, 7, 400, bad},
		{"a short hash", "/migrations/" + id.String() + "/content?sha256=AAAA" + rest, content, 7, 400, bad},
		{"bad id", "/migrations/AQID/content?sha256=" + id.String() + rest, content, 7, 400, bad},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetwork(t)
			n.expect(n.send("PUT", tt.uri, nil, bytes.NewReader(tt.raw), tt.length), tt.status, tt.code)
			if n.service.last != nil && n.service.last[0] == "PutContent" {
				t.Error("the service got the content")
			}
		})
	}
}

// contentRequest is a content request of the source, whatever it is signed with.
func contentRequest(body io.Reader) *http.Request {
	uri := "/migrations/" + id.String() + "/content?key_id=a&decide_by=1&sha256=" + id.String()
	return httptest.NewRequest(http.MethodPut, uri, body)
}

func contentHandler(svc *service) http.Handler {
	router := mux.NewRouter()
	auth := func(*http.Request) (api.Caller, error) { return server, nil }
	edge.Mount(router, federation.Routes(svc, maxGroupState), auth, edge.NewBodies(1<<20), slog.New(slog.DiscardHandler))
	return router
}

func answerTo(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// Without an offer of this server, a caller cannot make it hold a large body.
func TestContentWithoutOfferIsNotRead(t *testing.T) {
	h := contentHandler(&service{err: mimiport.Errorf("load", mimiport.KindUnknownMigration, "none")})
	body := strings.NewReader("content")
	if w := answerTo(h, contentRequest(body)); w.Code != http.StatusNotFound || body.Len() != len("content") {
		t.Errorf("got %d, %d bytes left", w.Code, body.Len())
	}
}

// With an offer, a caller can make it hold only a bounded number of bodies.
func TestUploadsOfOneMigrationAreBounded(t *testing.T) {
	h := contentHandler(&service{})
	var serving sync.WaitGroup
	var senders []*io.PipeWriter
	for range 2 {
		body, sender := io.Pipe()
		serving.Go(func() { answerTo(h, contentRequest(body)) })
		if _, err := sender.Write([]byte("x")); err != nil { // returns when the server has read it
			t.Fatal(err)
		}
		senders = append(senders, sender)
	}
	if w := answerTo(h, contentRequest(strings.NewReader("x"))); w.Code != http.StatusAccepted {
		t.Errorf("a third upload: %d %s", w.Code, w.Body)
	}
	for _, s := range senders {
		s.Close()
	}
	serving.Wait()
	if w := answerTo(h, contentRequest(strings.NewReader("x"))); w.Code != http.StatusBadRequest {
		t.Errorf("after the first two: %d %s", w.Code, w.Body)
	}
}

func TestTamperedBodyIsRefused(t *testing.T) {
	n := newNetwork(t)
	const uri = "/groups?user_id=%40alice%3As.example%3A8448"
	resp := n.send("POST", uri, map[string]string{"room_id": "!a:x"}, strings.NewReader(`{"room_id":"!b:x"}`), 18)
	if resp.StatusCode != http.StatusUnauthorized || n.service.last != nil {
		t.Errorf("got %d", resp.StatusCode)
	}
}
