package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/matrix-org/gomatrixserverlib/fclient"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// call makes a request of one server to another. route comes after the prefix of the federation API.
func call(
	t *testing.T, by *fclient.SigningIdentity, to *harness.Server, method, route string, content any,
) *http.Request {
	t.Helper()
	r, err := to.FederationRequest(t.Context(), by, method, federation.PathPrefix+route, content)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// as returns the query that names a user.
func as(u *harness.User) string { return "?" + url.Values{"user_id": {u.ID}}.Encode() }

// impostor returns an identity with another server's name and key id, and its own key.
func impostor(by, claims *fclient.SigningIdentity) *fclient.SigningIdentity {
	return &fclient.SigningIdentity{ServerName: claims.ServerName, KeyID: claims.KeyID, PrivateKey: by.PrivateKey}
}

func (x *trio) badPeers(t *testing.T) {
	a, b, c := identity(t, x.a), identity(t, x.b), identity(t, x.c)
	carol := harness.RegisterUser(t, x.c, "carol", false)
	group := "/groups/" + x.Group
	get := func(by *fclient.SigningIdentity, route string) *http.Request {
		return call(t, by, x.a, "GET", route, nil)
	}
	post := func(body string) *http.Request {
		r := call(t, b, x.a, "POST", group+"/messages"+as(x.bob.User), api.SubmitRequest{Message: []byte{0, 1, 2}})
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader([]byte(body))), int64(len(body))
		return r
	}
	unsigned := get(b, group+as(x.bob.User))
	unsigned.Header.Del("Authorization")
	misdirected := call(t, b, x.c, "GET", group+as(x.bob.User), nil)
	misdirected.URL.Host, misdirected.Host = x.a.Name, x.a.Name
	x.requireRefused(t, x.a.Name, []attempt{
		{"unsigned", unsigned, 401, "M_UNAUTHORIZED"},
		{"for another server", misdirected, 400, "M_BAD_JSON"},
		{"in another server's name", get(impostor(c, b), group+as(x.bob.User)), 401, "M_UNAUTHORIZED"},
		{"in the asked server's own name", get(impostor(b, a), group+as(x.alice.User)), 401, "M_UNAUTHORIZED"},
		{"for another server's user", get(b, group+as(x.alice.User)), 403, "M_FORBIDDEN"},
		{"for no user", get(b, group), 403, "M_FORBIDDEN"},
		{"for two users", get(b, group+as(x.bob.User)+"&user_id="+url.QueryEscape(x.bob.User.ID)),
			400, prefix + "M_BAD_MESSAGE"},
		{"for a malformed user", get(b, group+"?user_id=bob"), 400, prefix + "M_BAD_MESSAGE"},
		{"for a user who is not in the room", get(c, group+as(carol)), 403, "M_FORBIDDEN"},
		{"a group that is not there", get(b, "/groups/"+digest+as(x.bob.User)), 404, prefix + "M_UNKNOWN_GROUP"},
		{"a lineage from a server that is not in the room",
			call(t, c, x.a, "PUT", group+"/lineage", api.LineageRequest{Lineage: []byte{0}}), 403, "M_FORBIDDEN"},
		{"another body than was signed", post(`{"message":"AAED"}`), 401, "M_UNAUTHORIZED"},
		{"garbage", post("garbage"), 400, "M_BAD_JSON"},
		{"deep", post(deep), 400, "M_BAD_JSON"},
		{"large", post(large), 413, "M_TOO_LARGE"},
		{"no MLS message",
			call(t, b, x.a, "POST", group+"/messages"+as(x.bob.User), api.SubmitRequest{Message: []byte{0, 1, 2}}),
			400, prefix + "M_BAD_MESSAGE"},
		{"an offer for another server's user", call(t, c, x.a, "POST", "/migrations"+as(carol), api.MigrationRequestRequest{
			RoomID: x.Room, MigrationRequest: encode(t, &mimiport.MigrationRequest{
				SourceDomain: x.b.Name, TargetDomain: x.a.Name, GroupID: x.id(t),
			}),
		}), 403, "M_FORBIDDEN"},
	})
}

// upload makes a content request. Its query matches the body, unless change changes the query.
func upload(
	t *testing.T, by *fclient.SigningIdentity, to *harness.Server, id string, body []byte, change func(url.Values),
) *http.Request {
	t.Helper()
	sum := sha256.Sum256(body)
	query := url.Values{
		"sha256":    {base64.RawURLEncoding.EncodeToString(sum[:])},
		"key_id":    {string(by.KeyID)},
		"decide_by": {"9000000000000"},
	}
	if change != nil {
		change(query)
	}
	r := call(t, by, to, "PUT", "/migrations/"+id+"/content?"+query.Encode(), nil)
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.Header.Set("Content-Type", "application/octet-stream")
	return r
}

// content returns a signed MigrationContent for an offer. state is its group_state.
func content(t *testing.T, by *fclient.SigningIdentity, o *offer, state []byte) []byte {
	return harness.Signed(t, by, &mimiport.MigrationContent{Response: *o.response, GroupState: state}).Message
}

// groupState returns the group_state that a source would send, but with a Commit of another epoch.
func (x *trio) groupState(t *testing.T, host string) *mimiport.GroupState {
	t.Helper()
	alice := x.alice.User
	group := get[api.GroupResponse](t, x, ask(t, alice, "GET", at(host, "/groups/"+x.Group), ""))
	where := get[api.HostResponse](t, x, ask(t, alice, "GET", at(host, "/groups/"+x.Group+"/host"), ""))
	lineage, err := mimiport.UnmarshalLineage(where.Lineage)
	if err != nil {
		t.Fatal(err)
	}
	route := fmt.Sprintf("/groups/%s/tree?epoch=%d", x.Group, group.Epoch)
	status, tree := x.send(t, ask(t, alice, "GET", at(host, route), ""))
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, tree)
	}
	return &mimiport.GroupState{
		Base:    mimiport.BaseState{Protocol: group.Protocol, GroupInfo: group.GroupInfo, RatchetTree: tree},
		Commit:  mimiport.CommitState{Commit: x.message(t, x.a.Name, "commit").Message, GroupInfo: group.GroupInfo},
		Lineage: *lineage,
	}
}

// cut changes the last byte of a message, which belongs to its signature.
func cut(message []byte) []byte {
	message[len(message)-1] ^= 1
	return message
}

func (x *trio) badContents(t *testing.T) {
	a, b, c := identity(t, x.a), identity(t, x.b), identity(t, x.c)
	epoch := harness.State(t, x.alice).Epoch
	o := x.offer(t, x.bob.User, x.id(t), x.a.Name, epoch)
	other := x.offer(t, x.bob.User, x.id(t), x.a.Name, epoch)
	good := x.groupState(t, x.a.Name)
	var next *offer
	uses := 0
	send := func(body func(*offer) []byte) *http.Request { // two for each offer: the third refused content ends it
		if uses%2 == 0 {
			next = x.offer(t, x.bob.User, x.id(t), x.a.Name, epoch)
		}
		uses++
		return upload(t, a, x.b, next.id, body(next), nil)
	}
	changed := func(change func(*mimiport.GroupState)) *http.Request {
		state := *good
		change(&state)
		return send(func(o *offer) []byte { return content(t, a, o, encode(t, &state)) })
	}
	body := content(t, a, o, encode(t, good))
	query := func(change func(url.Values)) *http.Request { return upload(t, a, x.b, o.id, body, change) }
	abort := func(by, key *fclient.SigningIdentity, id string, m *mimiport.MigrationAbort) *http.Request {
		return call(t, by, x.b, "PUT", "/migrations/"+id+"/abort", harness.Signed(t, key, m))
	}
	real := &mimiport.MigrationAbort{MigrationID: o.response.ID(), SourceDomain: x.a.Name}
	x.requireRefused(t, x.a.Name, []attempt{
		{"unknown migration", upload(t, a, x.b, digest, body, nil), 404, prefix + "M_UNKNOWN_MIGRATION"},
		{"not from the source", upload(t, c, x.b, o.id, body, nil), 403, "M_FORBIDDEN"},
		{"in the source's name", upload(t, impostor(c, a), x.b, o.id, body, nil), 401, "M_UNAUTHORIZED"},
		{"for a user", upload(t, a, x.b, o.id, body, func(q url.Values) { q.Set("user_id", x.alice.User.ID) }),
			403, "M_FORBIDDEN"},
		{"another body than the URI says", query(func(q url.Values) { q.Set("sha256", digest) }),
			400, prefix + "M_BAD_MESSAGE"},
		{"no hash", query(func(q url.Values) { q.Del("sha256") }), 400, prefix + "M_BAD_MESSAGE"},
		{"no key", query(func(q url.Values) { q.Del("key_id") }), 400, prefix + "M_BAD_MESSAGE"},
		{"no time", query(func(q url.Values) { q.Del("decide_by") }), 400, prefix + "M_BAD_MESSAGE"},
		{"garbage", send(func(*offer) []byte { return []byte("garbage") }), 400, prefix + "M_BAD_MESSAGE"},
		{"a byte too many", send(func(o *offer) []byte { return append(content(t, a, o, encode(t, good)), 0) }),
			400, prefix + "M_BAD_MESSAGE"},
		{"tampered with", send(func(o *offer) []byte { return cut(content(t, a, o, encode(t, good))) }),
			403, prefix + "M_BAD_SIGNATURE"},
		{"signed by another server", send(func(o *offer) []byte { return content(t, c, o, encode(t, good)) }),
			403, prefix + "M_BAD_SIGNATURE"},
		{"an unknown key", query(func(q url.Values) { q.Set("key_id", "ed25519:none") }), 403, prefix + "M_BAD_SIGNATURE"},
		{"for another offer", send(func(*offer) []byte { return content(t, a, other, encode(t, good)) }),
			400, prefix + "M_INVALID"},
		{"no group", send(func(o *offer) []byte { return content(t, a, o, nil) }), 400, prefix + "M_BAD_MESSAGE"},
		{"another creator", changed(func(s *mimiport.GroupState) { s.Lineage.CreatingServer = x.c.Name }),
			400, prefix + "M_BAD_MESSAGE"},
		{"another protocol", changed(func(s *mimiport.GroupState) { s.Base.Protocol = "mls99" }),
			400, prefix + "M_UNSUPPORTED"},
		{"another tree", changed(func(s *mimiport.GroupState) { s.Base.RatchetTree = []byte{0} }),
			400, prefix + "M_BAD_MESSAGE"},
		{"a Commit of another epoch", changed(func(*mimiport.GroupState) {}), 409, prefix + "M_WRONG_EPOCH"},
		{"a forged Commit", changed(func(s *mimiport.GroupState) {
			s.Commit.Commit = altered(s.Commit.Commit, x.id(t), byte(epoch))
		}), 403, prefix + "M_BAD_SIGNATURE"},
		{"an abort not from the source", abort(c, c, o.id, real), 403, "M_FORBIDDEN"},
		{"an abort signed by another server", abort(a, b, o.id, real), 403, prefix + "M_BAD_SIGNATURE"},
		{"an abort of another migration", abort(a, a, other.id, real), 400, prefix + "M_INVALID"},
		{"an abort of an unknown migration", abort(a, a, digest, real), 404, prefix + "M_UNKNOWN_MIGRATION"},
		{"an abort with garbage", call(t, a, x.b, "PUT", "/migrations/"+o.id+"/abort",
			api.SignedRequest{Message: []byte{1}, KeyID: "x"}), 400, prefix + "M_BAD_MESSAGE"},
		{"another server asks", call(t, c, x.b, "GET", "/migrations/"+o.id, nil), 403, "M_FORBIDDEN"},
	})
}

// badReplays are requests that come too late: the group has moved from a to b.
func (x *trio) badReplays(t *testing.T) {
	a, b := identity(t, x.a), identity(t, x.b)
	epoch := harness.State(t, x.alice).Epoch
	moved := x.lastMigration(t, x.bob.User)
	replayed := &offer{moved.MigrationID, &mimiport.MigrationResponse{}, moved.MigrationResponse.KeyID}
	var err error
	if replayed.response, err = mimiport.UnmarshalMigrationResponse(moved.MigrationResponse.Message); err != nil {
		t.Fatal(err)
	}
	again := x.offer(t, x.bob.User, x.id(t), x.a.Name, epoch)
	expired := x.offer(t, x.alice.User, x.id(t), x.b.Name, epoch)
	x.awaitExpiry(t, x.alice.User, expired)
	good := encode(t, x.groupState(t, x.b.Name))
	commit := x.message(t, x.a.Name, "commit").Message
	alice, bob := x.alice.User, x.bob.User
	abort := &mimiport.MigrationAbort{MigrationID: replayed.response.ID(), SourceDomain: x.a.Name}
	put := func(u *harness.User, ds string, o *offer) *http.Request {
		return ask(t, u, "PUT", at(ds, "/migrations/"+o.id+"/init"), initBody(t, o, commit))
	}
	x.requireRefused(t, x.b.Name, []attempt{
		{"the group at its former host", ask(t, alice, "GET", at(x.a.Name, "/groups/"+x.Group), ""),
			410, prefix + "M_GROUP_MOVED"},
		{"a message for its former host",
			ask(t, alice, "POST", at(x.a.Name, "/groups/"+x.Group+"/messages"), `{"message":"AAEC"}`),
			410, prefix + "M_GROUP_MOVED"},
		{"an Init at its former host", put(bob, x.a.Name, again), 410, prefix + "M_GROUP_MOVED"},
		{"another user's Init", put(alice, x.a.Name, replayed), 403, "M_FORBIDDEN"},
		{"a second content", upload(t, a, x.b, replayed.id, content(t, a, replayed, good), nil), 409, prefix + "M_CONFLICT"},
		{"an abort after the confirmation",
			call(t, a, x.b, "PUT", "/migrations/"+replayed.id+"/abort", harness.Signed(t, a, abort)),
			409, prefix + "M_CONFLICT"},
		{"an abort by the user", ask(t, bob, "DELETE", at(x.a.Name, "/migrations/"+replayed.id), ""), 200, ""},
		{"the same user's Init again", put(bob, x.a.Name, replayed), 200, ""},
		{"an Init with an expired offer", put(alice, x.b.Name, expired), 410, prefix + "M_OFFER_EXPIRED"},
		{"a content for an expired offer", upload(t, b, x.a, expired.id, content(t, b, expired, good), nil),
			409, prefix + "M_MIGRATION_ENDED"},
	})
	want := []string{string(migration.EvidenceBothOutcomes), string(migration.EvidenceSecondContent)}
	if got := x.evidence(t); !slices.Equal(got, want) {
		t.Errorf("the target has the evidence %v, want %v", got, want)
	}
}

// evidence returns the kinds of b's evidence about the group, sorted.
func (x *trio) evidence(t *testing.T) (kinds []string) {
	t.Helper()
	path := adminapi.PathPrefix + "/groups/" + x.Group + "/evidence"
	list := get[adminapi.EvidenceList](t, x, ask(t, x.admins[1], "GET", path, ""))
	for i := range list.Items {
		kinds = append(kinds, list.Items[i].Kind)
	}
	slices.Sort(kinds)
	return kinds
}

// lastMigration returns the group's last migration, as its user sees it at the source.
func (x *trio) lastMigration(t *testing.T, u *harness.User) *api.MigrationStatus {
	t.Helper()
	where := get[api.HostResponse](t, x, ask(t, u, "GET", at(x.a.Name, "/groups/"+x.Group+"/host"), ""))
	response, err := mimiport.UnmarshalMigrationResponse(where.Moved.MigrationResponse)
	if err != nil {
		t.Fatal(err)
	}
	status := get[api.MigrationStatus](t, x, ask(t, u, "GET", at(x.a.Name, "/migrations/"+response.ID().String()), ""))
	return &status
}

// awaitExpiry asks the user's homeserver for an offer until the offer has expired.
func (x *trio) awaitExpiry(t *testing.T, u *harness.User, o *offer) {
	t.Helper()
	ctx := harness.Within(t)
	path := at(u.Server.Name, "/migrations/"+o.id)
	for get[api.MigrationStatus](t, x, ask(t, u, "GET", path, "").WithContext(ctx)).State == string(migration.Offered) {
	}
}
