package adversary

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/fclient"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// arena has the homeservers of all attacks, a user on each, and the administrators of the honest servers.
type arena struct {
	*harness.TestNetwork
	a, b *harness.Server // honest
	c    *liar

	alice, bob, mallory *harness.User // on a, b and c
	root                map[*harness.Server]*harness.User
	http                *http.Client
}

func newArena(t *testing.T, n *harness.TestNetwork) *arena {
	t.Helper()
	x := &arena{TestNetwork: n, c: startLiar(t, n)}
	x.a, x.b = n.StartServer(t, harness.Section), n.StartServer(t, harness.Section)
	x.alice = harness.RegisterUser(t, x.a, "alice", false)
	x.bob = harness.RegisterUser(t, x.b, "bob", false)
	x.mallory = harness.RegisterUser(t, x.c.Server, "mallory", false)
	x.root = map[*harness.Server]*harness.User{
		x.a: harness.RegisterUser(t, x.a, "root", true), x.b: harness.RegisterUser(t, x.b, "root", true),
	}
	for s := range x.root {
		x.setPolicy(t, t.Context(), s, nil)
	}
	keys := x.mlsGroup(nil) // its keys do not depend on the id
	for leaf, u := range []*harness.User{x.alice, x.bob, x.mallory} {
		if err := u.PublishKey(t.Context(), "ed25519", keys.Client(uint32(leaf)).SignatureKey()); err != nil {
			t.Fatal(err)
		}
	}
	x.http = n.Client()
	t.Cleanup(x.http.CloseIdleConnections)
	return x
}

// set changes the policy of an honest server until the test ends.
func (x *arena) set(t *testing.T, s *harness.Server, policy map[string]any) {
	t.Helper()
	x.setPolicy(t, t.Context(), s, policy)
	t.Cleanup(func() { x.setPolicy(t, context.WithoutCancel(t.Context()), s, nil) })
}

// setPolicy gives an honest server the default policy with changes. It raises the quotas that so many attacks would use
// up.
func (x *arena) setPolicy(t *testing.T, ctx context.Context, s *harness.Server, changes map[string]any) {
	t.Helper()
	many := map[string]int{
		"moves_per_hour": 10_000, "staged_per_user": 1000, "staged_per_room": 1000, "staged_per_source": 1000,
		"staged_per_user_in_room": 1000,
	}
	policy := map[string]any{"preset": "default", "quotas": many}
	maps.Copy(policy, changes)
	if err := x.root[s].Do(ctx, http.MethodPut, adminapi.PathPrefix+"/policy", policy, nil); err != nil {
		t.Fatal(err)
	}
}

// group is a group of alice, bob and mallory, with leaves 0, 1 and 2. alice has created it. She and bob may move it.
type group struct {
	*arena
	room string
	id   []byte
	mls  *mlstest.Group // in its present epoch
	host *harness.Server
	term uint64
}

// These are the leaf indices of the members.
const (
	aliceLeaf = iota
	bobLeaf
	malloryLeaf
)

func (x *arena) newRoom(t *testing.T) string {
	t.Helper()
	room := harness.SharedRoom(t, x.alice, x.bob)
	harness.Admit(t, x.alice, room, x.mallory)
	return room
}

// newGroup makes a group at a.
func (x *arena) newGroup(t *testing.T) *group {
	t.Helper()
	g := &group{arena: x, room: x.newRoom(t), host: x.a}
	var reserved api.ReserveGroupResponse
	g.must(t, x.alice, http.MethodPost, "/groups", &api.ReserveGroupRequest{RoomID: g.room}, &reserved)
	g.id = reserved.GroupID
	g.mls = x.mlsGroup(g.id)
	bind := &api.BindGroupRequest{Protocol: protocol, GroupInfo: g.mls.GroupInfo(), RatchetTree: g.mls.RatchetTree()}
	g.must(t, x.alice, http.MethodPut, g.path(""), bind, nil)
	return g
}

const protocol = "mls10"

// mlsGroup returns an MLS group of the three users with this id.
func (x *arena) mlsGroup(id []byte) *mlstest.Group {
	o := mlstest.Options{GroupID: id}
	for _, u := range []*harness.User{x.alice, x.bob, x.mallory} {
		o.Members = append(o.Members, mlstest.Identity(u.ID, u.DeviceID))
	}
	return mlstest.New(o)
}

func (g *group) path(route string) string {
	return "/groups/" + base64.RawURLEncoding.EncodeToString(g.id) + route
}

// at returns the path of a route of a Delivery Service in the client API.
func at(ds, route string) string { return clientapi.PathPrefix + "/ds/" + url.PathEscape(ds) + route }

// ask sends a user's request to the group's host.
func (g *group) ask(t *testing.T, u *harness.User, method, route string, in, out any) error {
	t.Helper()
	return u.Do(harness.Within(t), method, at(g.host.Name, route), in, out)
}

func (g *group) must(t *testing.T, u *harness.User, method, route string, in, out any) {
	t.Helper()
	if err := g.ask(t, u, method, route, in, out); err != nil {
		t.Fatalf("%s %s: %v", method, route, err)
	}
}

// commit submits a member's Commit, which the host must accept.
func (g *group) commit(t *testing.T, u *harness.User, leaf uint32) {
	t.Helper()
	c := g.mls.Commit(mlstest.CommitOptions{Sender: leaf, Path: true})
	if err := g.submit(t, u, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo}); err != nil {
		t.Fatal(err)
	}
	g.mls = c.Next
}

// say submits a member's message, which the host must accept.
func (g *group) say(t *testing.T, u *harness.User) {
	t.Helper()
	if err := g.submit(t, u, &api.SubmitRequest{Message: g.mls.Application(nil, 32)}); err != nil {
		t.Fatal(err)
	}
}

// submit submits a user's message to the group's host.
func (g *group) submit(t *testing.T, u *harness.User, message *api.SubmitRequest) error {
	t.Helper()
	return g.ask(t, u, http.MethodPost, g.path("/messages"), message, nil)
}

// where asks a server, as a user, for the group's host.
func (g *group) where(t *testing.T, u *harness.User, s *harness.Server) (host api.HostResponse) {
	t.Helper()
	if err := u.Do(harness.Within(t), http.MethodGet, at(s.Name, g.path("/host")), nil, &host); err != nil {
		t.Fatal(err)
	}
	return host
}

// lineage returns the group's lineage as its host has it.
func (g *group) lineage(t *testing.T) *mimiport.Lineage {
	t.Helper()
	l, err := mimiport.UnmarshalLineage(g.where(t, g.alice, g.host).Lineage)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// evidence returns the kinds of evidence that a server has about the group.
func (g *group) evidence(t *testing.T, s *harness.Server) (kinds []string) {
	t.Helper()
	var list adminapi.EvidenceList
	path := adminapi.PathPrefix + g.path("/evidence")
	if err := g.root[s].Do(harness.Within(t), http.MethodGet, path, nil, &list); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		kinds = append(kinds, list.Items[i].Kind)
	}
	return kinds
}

// move moves the group to a server, as a member, and waits until the group is active there.
func (g *group) move(t *testing.T, u *harness.User, leaf uint32, to *harness.Server) {
	t.Helper()
	o := g.offer(t, u, to)
	status, after, err := g.initiate(t, o, u, leaf)
	if err != nil {
		t.Fatal(err)
	}
	ctx := harness.Within(t)
	for status.State == string(migration.Frozen) && ctx.Err() == nil {
		g.must(t, u, http.MethodGet, "/migrations/"+o.id, nil, &status)
	}
	if status.State != string(migration.Moved) && status.State != string(migration.Decided) {
		t.Fatalf("the move to %s ended as %s: %s", to.Name, status.State, status.Reason)
	}
	g.mls, g.host, g.term = after, to, g.term+1
	var there api.GroupResponse
	err = harness.Poll(ctx, func(ctx context.Context) error {
		return g.alice.Do(ctx, http.MethodGet, at(to.Name, g.path("")), nil, &there)
	})
	if err != nil || there.Term != g.term || there.Epoch != g.mls.Epoch() {
		t.Fatalf("%v: the group is in term %d, epoch %d", err, there.Term, there.Epoch)
	}
}

// goesOn checks that the group is at its host in its term, and that its members can commit, send and move it.
func goesOn(t *testing.T, g *group) {
	t.Helper()
	if host := g.where(t, g.bob, g.host); host.DeliveryService != g.host.Name || host.Term != g.term {
		t.Fatalf("the group is at %s in term %d", host.DeliveryService, host.Term)
	}
	g.commit(t, g.alice, aliceLeaf)
	g.say(t, g.bob)
	to, by, leaf := g.b, g.bob, uint32(bobLeaf)
	if g.host == g.b {
		to, by, leaf = g.a, g.alice, aliceLeaf
	}
	g.move(t, by, leaf, to)
	g.say(t, g.mallory)
}

// answer is a server's answer to a request.
type answer struct {
	status int
	body   []byte
}

func (a answer) code() string {
	var refusal struct {
		Code string `json:"errcode"`
	}
	_ = json.Unmarshal(a.body, &refusal) // a body that is not JSON has no code
	return refusal.Code
}

// requireRefused fails the test unless the answer is a refusal with a code.
func (a answer) requireRefused(t *testing.T, name string) {
	t.Helper()
	if a.status < 400 || a.status >= 500 || a.code() == "" {
		t.Errorf("%s: %d %.300s", name, a.status, a.body)
	}
}

func (a answer) String() string { return http.StatusText(a.status) + ": " + string(a.body) }

// send sends a request and reads the answer.
func (x *arena) send(t *testing.T, r *http.Request) answer {
	t.Helper()
	resp, err := x.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, body}
}

// request makes a request of one server to another. route comes after the prefix of the federation API.
func (x *arena) request(
	t *testing.T, by *fclient.SigningIdentity, to *harness.Server, method, route string, in any,
) *http.Request {
	t.Helper()
	r, err := to.FederationRequest(harness.Within(t), by, method, federation.PathPrefix+route, in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (x *arena) peer(
	t *testing.T, by *fclient.SigningIdentity, to *harness.Server, method, route string, in any,
) answer {
	t.Helper()
	return x.send(t, x.request(t, by, to, method, route, in))
}

// as returns the query that names a user.
func as(u *harness.User) string { return "?" + url.Values{"user_id": {u.ID}}.Encode() }

// withBody gives a request a body that is not JSON.
func withBody(r *http.Request, body []byte) *http.Request {
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.Header.Set("Content-Type", "application/octet-stream")
	return r
}

func encode(t *testing.T, m interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
