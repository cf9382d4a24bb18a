package integration

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/matrix-org/gomatrixserverlib/fclient"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api/openapitest"
)

// trio is the homeservers a and b with the group of a pair, and c, which lacks the module. What is asked and answered
// through http is checked against the document of the APIs.
type trio struct {
	*pair
	a, b, c *harness.Server
	admins  []*harness.User // of a and b
	http    *http.Client
}

func newTrio(t *testing.T, sectionA, sectionB string) *trio {
	t.Helper()
	n := harness.NewTestNetwork(t)
	x := &trio{a: n.StartServer(t, sectionA), b: n.StartServer(t, sectionB), c: n.StartServer(t, "")}
	x.admins = []*harness.User{harness.RegisterUser(t, x.a, "admin", true), harness.RegisterUser(t, x.b, "admin", true)}
	x.pair = newPairAt(t, x.a, x.b)
	x.http = n.Client()
	t.Cleanup(x.http.CloseIdleConnections)
	x.http.Transport = openapitest.New(t).RoundTripper(x.http.Transport)
	return x
}

// identity is what a server signs with.
func identity(t *testing.T, s *harness.Server) *fclient.SigningIdentity {
	t.Helper()
	id, err := s.Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// ask makes a request of a user. body is JSON; empty for none.
func ask(t *testing.T, u *harness.User, method, path, body string) *http.Request {
	t.Helper()
	r, err := u.Request(t.Context(), method, path, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// at is the path of a route of the Delivery Service ds in the client API.
func at(ds, route string) string { return clientapi.PathPrefix + "/ds/" + url.PathEscape(ds) + route }

// send sends a request and returns the answer.
func (x *trio) send(t *testing.T, r *http.Request) (status int, body []byte) {
	t.Helper()
	resp, err := x.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// get decodes the answer to a request that succeeds.
func get[A any](t *testing.T, x *trio, r *http.Request) (answer A) {
	t.Helper()
	status, body := x.send(t, r)
	if status != http.StatusOK {
		t.Fatalf("%s %s → %d %s", r.Method, r.URL, status, body)
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// hosting is all that the operators and a member see of the servers a and b. The group is at the server hosted.
func (x *trio) hosting(t *testing.T, host string) map[string]any {
	t.Helper()
	seen := make(map[string]any)
	for _, admin := range x.admins {
		for _, list := range []string{"/groups", "/migrations", "/policy"} {
			seen[admin.Server.Name+list] = get[any](t, x, ask(t, admin, "GET", adminapi.PathPrefix+list, ""))
		}
	}
	for _, route := range []string{"", "/host", "/messages"} {
		seen["group"+route] = get[any](t, x, ask(t, x.alice.User, "GET", at(host, "/groups/"+x.Group+route), ""))
	}
	return seen
}

// attempt is a request that changes nothing.
type attempt struct {
	name    string
	request *http.Request
	status  int    // 200 where the answer is what has been settled before
	code    string // errcode
}

// requireRefused makes each attempt and checks its answer, and that nothing changes. The group is at the server host.
func (x *trio) requireRefused(t *testing.T, host string, attempts []attempt) {
	t.Helper()
	before := x.hosting(t, host)
	for _, a := range attempts {
		t.Run(a.name, func(t *testing.T) {
			status, body := x.send(t, a.request.WithContext(t.Context()))
			var refusal struct {
				Code string `json:"errcode"`
			}
			_ = json.Unmarshal(body, &refusal) // what is not JSON has no code
			if status != a.status || refusal.Code != a.code {
				t.Errorf("got %d %s, want %d %s", status, body, a.status, a.code)
			}
			if diff := cmp.Diff(before, x.hosting(t, host)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// offer is what a target gives to whoever may move a group to it.
type offer struct {
	id       string
	response *mimiport.MigrationResponse
	keyID    string
}

// offer gets an offer of the user's homeserver for the group, to move here from source at an epoch.
func (x *trio) offer(t *testing.T, u *harness.User, groupID []byte, source string, epoch uint64) *offer {
	t.Helper()
	request := mimiport.MigrationRequest{SourceDomain: source, TargetDomain: u.Server.Name, GroupID: groupID, Epoch: epoch}
	body := requestBody(t, &request, x.Room)
	o := get[api.MigrationOffer](t, x, ask(t, u, "POST", at(u.Server.Name, "/migrations"), body))
	response, err := mimiport.UnmarshalMigrationResponse(o.MigrationResponse)
	if err != nil {
		t.Fatal(err)
	}
	return &offer{o.MigrationID, response, o.KeyID}
}

func requestBody(t *testing.T, r *mimiport.MigrationRequest, room string) string {
	return toJSON(t, api.MigrationRequestRequest{MigrationRequest: encode(t, r), RoomID: room})
}

// initBody is an Init without the client's signature, with a Commit and what is no GroupInfo.
func initBody(t *testing.T, o *offer, commit []byte) string {
	return toJSON(t, api.MigrationInitRequest{
		MigrationInit: encode(t, &mimiport.MigrationInit{Response: *o.response, Signature: make([]byte, 64)}),
		KeyID:         o.keyID,
		SubmitRequest: api.SubmitRequest{Message: commit, GroupInfo: []byte{0}},
	})
}

func encode(t *testing.T, m interface{ Marshal() ([]byte, error) }) []byte {
	t.Helper()
	b, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// id is the group's id.
func (p *pair) id(t *testing.T) []byte {
	t.Helper()
	id, err := base64.RawURLEncoding.DecodeString(p.Group)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// message is a message for the group in the log of a server.
func (x *trio) message(t *testing.T, host, kind string) *api.LogMessage {
	t.Helper()
	log := get[api.MessagesResponse](t, x, ask(t, x.alice.User, "GET", at(host, "/groups/"+x.Group+"/messages"), ""))
	for i := range log.Messages {
		if log.Messages[i].Kind == kind {
			return &log.Messages[i]
		}
	}
	t.Fatalf("no %s in the log", kind)
	return nil
}

// altered is a PublicMessage for a group with an id of 32 bytes that says another group or epoch (RFC 9420, section 6).
func altered(message, groupID []byte, epoch byte) []byte {
	const idAt = 2 + 2 + 1 // after version, wire format and the id's length
	m := bytes.Clone(message)
	copy(m[idAt:], groupID)
	m[idAt+len(groupID)+7] = epoch
	return m
}
