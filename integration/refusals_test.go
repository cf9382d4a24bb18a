package integration

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// prefix is the prefix of the project's own error codes.
const prefix = "IO.GITHUB.MIMIPORT."

// deep is JSON nested so deeply that a parser should refuse it.
var deep = strings.Repeat("[", 100_000)

// large is a JSON body above every limit.
var large = `{"message":"` + strings.Repeat("A", 9<<20) + `"}`

// digest is the id of no migration.
var digest = strings.Repeat("A", 43)

// Profile, section 8: "Refusals are typed". A real server answers each wrong request with the right code, and
// nothing changes.
func TestRefusals(t *testing.T) {
	x := newTrio(t, harness.Section+"  offer_life: 1s\n", harness.Section)
	x.Talk(t)
	x.RequireSettled(t)
	t.Run("users", x.badUsers)
	t.Run("messages", x.badMessages)
	t.Run("requests", x.badRequests)
	t.Run("inits", x.badInits)
	t.Run("admins", x.badAdmins)
	t.Run("peers", x.badPeers)
	t.Run("contents", x.badContents)
	x.Move(t, x.bob, x.b)
	x.Talk(t)
	t.Run("replays", x.badReplays)
	x.Talk(t)
	x.RequireAt(t, x.b, 1)
}

func (x *trio) badUsers(t *testing.T) {
	alice, group := x.alice.User, at(x.a.Name, "/groups/"+x.Group)
	nobody := &harness.User{Server: x.a}
	guest, err := x.a.RegisterGuest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mallory := harness.RegisterUser(t, x.a, "mallory", false)
	read := func(u *harness.User, path string) *http.Request { return ask(t, u, "GET", path, "") }
	x.requireRefused(t, x.a.Name, []attempt{
		{"no token", read(nobody, group), 401, "M_MISSING_TOKEN"},
		{"a token of nobody", read(&harness.User{Server: x.a, Token: "none"}, group), 401, "M_UNKNOWN_TOKEN"},
		{"a guest", read(guest, group), 403, "M_GUEST_ACCESS_FORBIDDEN"},
		{"not in the room: group", read(mallory, group), 403, "M_FORBIDDEN"},
		{"not in the room: host", read(mallory, group+"/host"), 403, "M_FORBIDDEN"},
		{"not in the room: log", read(mallory, group+"/messages"), 403, "M_FORBIDDEN"},
		{"not in the room: tree", read(mallory, group+"/tree?epoch=1"), 403, "M_FORBIDDEN"},
		{"not in the room: reserve",
			ask(t, mallory, "POST", at(x.a.Name, "/groups"), toJSON(t, api.ReserveGroupRequest{RoomID: x.Room})),
			403, "M_FORBIDDEN"},
		{"not in the room: submit", ask(t, mallory, "POST", group+"/messages", `{"message":"AAEC"}`), 403, "M_FORBIDDEN"},
		{"unknown group", read(alice, at(x.a.Name, "/groups/"+digest)), 404, prefix + "M_UNKNOWN_GROUP"},
		{"unknown group elsewhere", read(alice, at(x.b.Name, "/groups/"+digest)), 404, prefix + "M_UNKNOWN_GROUP"},
		{"an id that is not base64url", read(alice, at(x.a.Name, "/groups/AA==")), 400, prefix + "M_BAD_MESSAGE"},
		{"an id that is too long", read(alice, at(x.a.Name, "/groups/"+strings.Repeat("A", 342))),
			400, prefix + "M_BAD_MESSAGE"},
		{"an IP address", read(alice, at("127.0.0.1:1", "/groups/"+x.Group)), 403, "M_FORBIDDEN"},
		{"an IPv6 address", read(alice, at("[::1]:1", "/groups/"+x.Group)), 403, "M_FORBIDDEN"},
		{"no server name", read(alice, at("a/../b", "/groups/"+x.Group)), 400, prefix + "M_BAD_MESSAGE"},
		{"nobody there", read(alice, at("localhost:1", "/groups/"+x.Group)), 502, prefix + "M_PEER_UNREACHABLE"},
		{"a homeserver without the module", read(alice, at(x.c.Name, "/groups/"+x.Group)), 404, "M_UNRECOGNIZED"},
		{"a number that is none", read(alice, group+"/messages?from=x"), 400, prefix + "M_BAD_MESSAGE"},
		{"a number twice", read(alice, group+"/messages?from=1&from=2"), 400, prefix + "M_BAD_MESSAGE"},
		{"no epoch", read(alice, group+"/tree"), 400, prefix + "M_BAD_MESSAGE"},
		{"an epoch to come", read(alice, group+"/tree?epoch=9"), 409, prefix + "M_WRONG_EPOCH"},
		{"not in the room: lineage", ask(t, mallory, "PUT", group+"/lineage", `{"lineage":"AA"}`), 403, "M_FORBIDDEN"},
		{"no lineage", ask(t, alice, "PUT", group+"/lineage", `{"lineage":"AA"}`), 400, prefix + "M_BAD_MESSAGE"},
		{"bind, but another's id", ask(t, x.bob.User, "PUT", group, `{"protocol":"mls10","group_info":"AAEC"}`),
			403, "M_FORBIDDEN"},
		{"bind garbage", ask(t, alice, "PUT", group, `{"protocol":"mls10","group_info":"AAEC"}`),
			400, prefix + "M_BAD_MESSAGE"},
		{"bind another protocol", ask(t, alice, "PUT", group, `{"protocol":"mls99","group_info":"AAEC"}`),
			400, prefix + "M_UNSUPPORTED"},
	})
}

func (x *trio) badMessages(t *testing.T) {
	commit := x.message(t, x.a.Name, "commit").Message
	epoch := byte(harness.State(t, x.alice).Epoch)
	path := at(x.a.Name, "/groups/"+x.Group+"/messages")
	post := func(u *harness.User, body string) *http.Request { return ask(t, u, "POST", path, body) }
	submit := func(u *harness.User, message []byte) *http.Request {
		return post(u, toJSON(t, api.SubmitRequest{Message: message, GroupInfo: []byte{0}}))
	}
	alice := x.alice.User
	x.requireRefused(t, x.a.Name, []attempt{
		{"nothing", post(alice, ""), 400, prefix + "M_BAD_MESSAGE"},
		{"garbage", post(alice, "\x00\xff{"), 400, prefix + "M_BAD_MESSAGE"},
		{"deep", post(alice, deep), 400, prefix + "M_BAD_MESSAGE"},
		{"large", post(alice, large), 413, "M_TOO_LARGE"},
		{"no base64", post(alice, `{"message":"!"}`), 400, prefix + "M_BAD_MESSAGE"},
		{"an integer beyond 2^53-1", post(alice, `{"message":"AAEC","more":9007199254740992}`),
			400, prefix + "M_BAD_MESSAGE"},
		{"no MLS message", submit(alice, []byte{0, 1, 2}), 400, prefix + "M_BAD_MESSAGE"},
		{"a message with a byte too many", submit(alice, append(bytes.Clone(commit), 0)), 400, prefix + "M_BAD_MESSAGE"},
		{"another group's", submit(alice, altered(commit, make([]byte, 32), epoch)), 400, prefix + "M_INVALID"},
		{"of an epoch to come", submit(alice, altered(commit, x.id(t), epoch+1)), 409, prefix + "M_WRONG_EPOCH"},
		{"forged", submit(alice, altered(commit, x.id(t), epoch)), 403, prefix + "M_BAD_SIGNATURE"},
		{"another user's", submit(x.bob.User, commit), 409, prefix + "M_CONFLICT"},
	})
}

func (x *trio) badRequests(t *testing.T) {
	stranger := harness.RegisterUser(t, x.b, "stranger", false)
	good := mimiport.MigrationRequest{SourceDomain: x.a.Name, TargetDomain: x.b.Name, GroupID: x.id(t), Epoch: 1}
	post := func(u *harness.User, body string) *http.Request {
		return ask(t, u, "POST", at(x.b.Name, "/migrations"), body)
	}
	changed := func(change func(*mimiport.MigrationRequest)) *http.Request {
		r := good
		change(&r)
		return post(x.bob.User, requestBody(t, &r, x.Room))
	}
	raw := func(message []byte) *http.Request {
		return post(x.bob.User, toJSON(t, api.MigrationRequestRequest{MigrationRequest: message, RoomID: x.Room}))
	}
	encoded := encode(t, &good)
	tooLate := bytes.Clone(encoded)
	tooLate[len(tooLate)-8] = 0x80
	x.requireRefused(t, x.a.Name, []attempt{
		{"a user of another server", post(x.alice.User, requestBody(t, &good, x.Room)), 403, "M_FORBIDDEN"},
		{"a user who is not in the room", post(stranger, requestBody(t, &good, x.Room)), 403, "M_FORBIDDEN"},
		{"a room that nobody knows", post(x.bob.User, requestBody(t, &good, "!none")), 403, "M_FORBIDDEN"},
		{"wrong target", changed(func(r *mimiport.MigrationRequest) { r.TargetDomain = x.c.Name }),
			400, prefix + "M_INVALID"},
		{"the target is the source", changed(func(r *mimiport.MigrationRequest) { r.SourceDomain = x.b.Name }),
			400, prefix + "M_BAD_MESSAGE"},
		{"no server name", changed(func(r *mimiport.MigrationRequest) { r.SourceDomain = "a/b" }),
			400, prefix + "M_BAD_MESSAGE"},
		{"no group id", changed(func(r *mimiport.MigrationRequest) { r.GroupID = nil }), 400, prefix + "M_BAD_MESSAGE"},
		{"a group id of 256 bytes", changed(func(r *mimiport.MigrationRequest) { r.GroupID = make([]byte, 256) }),
			400, prefix + "M_BAD_MESSAGE"},
		{"epoch 2^63", raw(tooLate), 400, prefix + "M_BAD_MESSAGE"},
		{"a byte too few", raw(encoded[1:]), 400, prefix + "M_BAD_MESSAGE"},
		{"a byte too many", raw(append(bytes.Clone(encoded), 0)), 400, prefix + "M_BAD_MESSAGE"},
		{"garbage", post(x.bob.User, "garbage"), 400, prefix + "M_BAD_MESSAGE"},
		{"deep", post(x.bob.User, deep), 400, prefix + "M_BAD_MESSAGE"},
		{"large", post(x.bob.User, large), 413, "M_TOO_LARGE"},
	})
}

func (x *trio) badInits(t *testing.T) {
	weak := harness.RegisterUser(t, x.a, "weak", false)
	harness.Admit(t, x.alice.User, x.Room, weak)
	commit := x.message(t, x.a.Name, "commit").Message
	epoch := harness.State(t, x.alice).Epoch
	good := x.offer(t, x.bob.User, x.id(t), x.a.Name, epoch)
	unknown := x.offer(t, x.bob.User, []byte("unknown"), x.a.Name, epoch)
	past := x.offer(t, x.bob.User, x.id(t), x.a.Name, 0)
	forged := &offer{good.id, &mimiport.MigrationResponse{}, good.keyID}
	*forged.response = *good.response
	forged.response.Signature = make([]byte, 64)
	otherKey := &offer{good.id, good.response, "ed25519:other"}
	put := func(u *harness.User, ds, id, body string) *http.Request {
		return ask(t, u, "PUT", at(ds, "/migrations/"+id+"/init"), body)
	}
	to := func(target string) *http.Request {
		r := *good.response
		r.Request.TargetDomain = target
		id := r.ID().String()
		return put(x.bob.User, x.a.Name, id, initBody(t, &offer{id, &r, good.keyID}, commit))
	}
	bob, a := x.bob.User, x.a.Name
	status := func(method, ds, id, what, body string) *http.Request {
		return ask(t, bob, method, at(ds, "/migrations/"+id+what), body)
	}
	confirmation := toJSON(t, harness.Signed(t, identity(t, x.a), &mimiport.MigrationConfirmation{
		DomainName: x.b.Name, Nonce: good.response.Nonce, GroupID: x.id(t),
	}))
	x.requireRefused(t, a, []attempt{
		{"garbage", put(bob, a, good.id, "garbage"), 400, prefix + "M_BAD_MESSAGE"},
		{"deep", put(bob, a, good.id, deep), 400, prefix + "M_BAD_MESSAGE"},
		{"large", put(bob, a, good.id, large), 413, "M_TOO_LARGE"},
		{"no MigrationInit", put(bob, a, good.id, `{"migration_init":"AAEC","key_id":"x","message":"AA","group_info":"AA"}`),
			400, prefix + "M_BAD_MESSAGE"},
		{"another migration's id", put(bob, a, digest, initBody(t, good, commit)), 400, prefix + "M_BAD_MESSAGE"},
		{"a malformed id", put(bob, a, "AAEC", initBody(t, good, commit)), 400, prefix + "M_BAD_MESSAGE"},
		{"at the target", put(bob, x.b.Name, good.id, initBody(t, good, commit)), 400, prefix + "M_INVALID"},
		{"unknown group", put(bob, a, unknown.id, initBody(t, unknown, commit)), 404, prefix + "M_UNKNOWN_GROUP"},
		{"too little power", put(weak, a, good.id, initBody(t, good, commit)), 403, "M_FORBIDDEN"},
		{"a forged offer", put(bob, a, good.id, initBody(t, forged, commit)), 403, prefix + "M_BAD_SIGNATURE"},
		{"an offer by an unknown key", put(bob, a, good.id, initBody(t, otherKey, commit)), 403, prefix + "M_BAD_SIGNATURE"},
		{"to an IP address", to("127.0.0.1:1"), 403, "M_FORBIDDEN"},
		{"to a server that is not in the room", to("localhost:1"), 403, "M_FORBIDDEN"},
		{"to itself", to(a), 400, prefix + "M_BAD_MESSAGE"},
		{"no Commit", put(bob, a, good.id, initBody(t, good, []byte{1})), 400, prefix + "M_BAD_MESSAGE"},
		{"a Commit of another epoch", put(bob, a, good.id, initBody(t, good, commit)), 400, prefix + "M_INVALID"},
		{"an epoch that is over", put(bob, a, past.id, initBody(t, past, commit)), 409, prefix + "M_WRONG_EPOCH"},
		{"a forged Commit", put(bob, a, good.id, initBody(t, good, altered(commit, x.id(t), byte(epoch)))),
			403, prefix + "M_BAD_SIGNATURE"},
		{"an unknown migration", status("GET", a, digest, "", ""), 404, prefix + "M_UNKNOWN_MIGRATION"},
		{"abort an unknown migration", status("DELETE", a, digest, "", ""), 404, prefix + "M_UNKNOWN_MIGRATION"},
		{"abort at the target", status("DELETE", x.b.Name, good.id, "", ""), 403, "M_FORBIDDEN"},
		{"confirm what has not come", status("PUT", x.b.Name, good.id, "/confirmation", confirmation),
			409, prefix + "M_CONFLICT"},
		{"confirm another migration", status("PUT", x.b.Name, past.id, "/confirmation", confirmation),
			400, prefix + "M_INVALID"},
		{"confirm with garbage", status("PUT", x.b.Name, good.id, "/confirmation", `{"message":"AA","key_id":"x"}`),
			400, prefix + "M_BAD_MESSAGE"},
	})
}

func (x *trio) badAdmins(t *testing.T) {
	root := x.admins[0]
	const policy = adminapi.PathPrefix + "/policy"
	put := func(body string) *http.Request { return ask(t, root, "PUT", policy, body) }
	read := func(path string) *http.Request { return ask(t, root, "GET", adminapi.PathPrefix+path, "") }
	post := func(path, body string) *http.Request { return ask(t, root, "POST", adminapi.PathPrefix+path, body) }
	x.requireRefused(t, x.a.Name, []attempt{
		{"no token", ask(t, &harness.User{Server: x.a}, "GET", policy, ""), 401, "M_MISSING_TOKEN"},
		{"not an administrator: read", ask(t, x.alice.User, "GET", policy, ""), 403, "M_FORBIDDEN"},
		{"not an administrator: write", ask(t, x.alice.User, "PUT", policy, `{"source":"nobody"}`), 403, "M_FORBIDDEN"},
		{"an administrator of another server",
			ask(t, &harness.User{Server: x.a, Token: x.admins[1].Token}, "GET", policy, ""), 401, "M_UNKNOWN_TOKEN"},
		{"unknown field", put(`{"sauce":"nobody"}`), 400, prefix + "M_BAD_MESSAGE"},
		{"unknown mode", put(`{"source":"everybody"}`), 400, prefix + "M_BAD_MESSAGE"},
		{"unknown preset", put(`{"preset":"strict"}`), 400, prefix + "M_BAD_MESSAGE"},
		{"unknown quota", put(`{"quotas":{"grops":1}}`), 400, prefix + "M_BAD_MESSAGE"},
		{"negative quota", put(`{"quotas":{"groups":-1}}`), 400, prefix + "M_BAD_MESSAGE"},
		{"wrong type", put(`{"require_room":"yes"}`), 400, prefix + "M_BAD_MESSAGE"},
		{"no object", put(`[]`), 400, prefix + "M_BAD_MESSAGE"},
		{"garbage", put(`garbage`), 400, prefix + "M_BAD_MESSAGE"},
		{"deep", put(deep), 400, prefix + "M_BAD_MESSAGE"},
		{"large", put(large), 413, "M_TOO_LARGE"},
		{"unknown group", read("/groups/" + digest), 404, prefix + "M_UNKNOWN_GROUP"},
		{"malformed group", read("/groups/A"), 400, prefix + "M_BAD_MESSAGE"},
		{"reclaim what is here", post("/groups/"+x.Group+"/reclaim", ""), 409, prefix + "M_CONFLICT"},
		{"reclaim an unknown group", post("/groups/"+digest+"/reclaim", ""), 404, prefix + "M_UNKNOWN_GROUP"},
		{"recover against the policy",
			post("/groups/"+digest+"/recover", `{"protocol":"mls10","group_info":"AA","lineage":"AA"}`), 403, "M_FORBIDDEN"},
		{"recover with garbage", post("/groups/"+digest+"/recover", "garbage"), 400, prefix + "M_BAD_MESSAGE"},
		{"unknown migration", read("/migrations/" + digest), 404, prefix + "M_UNKNOWN_MIGRATION"},
		{"malformed migration", read("/migrations/A"), 400, prefix + "M_BAD_MESSAGE"},
		{"malformed page", read("/groups?after=!"), 400, prefix + "M_BAD_MESSAGE"},
		{"filtered twice", read("/migrations?user=a&user=b"), 400, prefix + "M_BAD_MESSAGE"},
	})
}
