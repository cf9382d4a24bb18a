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
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/matrix-org/gomatrixserverlib/fclient"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api/openapitest"
)

// trio has the homeservers a and b with the group of a pair, and c, which lacks the module. http checks its requests
// and their answers against the document of the APIs.
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

// identity returns a server's name and signing key.
func identity(t *testing.T, s *harness.Server) *fclient.SigningIdentity {
	t.Helper()
	id, err := s.Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// ask makes a user's request. body is JSON, or empty.
func ask(t *testing.T, u *harness.User, method, path, body string) *http.Request {
	t.Helper()
	r, err := u.Request(t.Context(), method, path, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// at returns the path of a route of the Delivery Service ds in the client API.
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

// get sends a request, which must succeed, and decodes the answer.
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

// hosting returns the answers of a and b to their operators, and of the group's host to alice.
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

// attempt is a request that must change nothing.
type attempt struct {
	name    string
	request *http.Request
	status  int    // 200 if the server repeats an earlier answer
	code    string // errcode
}

// requireRefused makes each attempt, and checks its answer and that nothing has changed. host has the group.
func (x *trio) requireRefused(t *testing.T, host string, attempts []attempt) {
	t.Helper()
	before := x.hosting(t, host)
	for _, a := range attempts {
		t.Run(a.name, func(t *testing.T) {
			status, body := x.send(t, a.request.WithContext(t.Context()))
			var refusal struct {
				Code string `json:"errcode"`
			}
			_ = json.Unmarshal(body, &refusal) // a body that is not JSON has no code
			if status != a.status || refusal.Code != a.code {
				t.Errorf("got %d %s, want %d %s", status, body, a.status, a.code)
			}
			// A target counts the contents that it refuses, so its record of the migration has a new time.
			counted := cmpopts.IgnoreMapEntries(func(key string, _ any) bool { return key == "updated_at" })
			if diff := cmp.Diff(before, x.hosting(t, host), counted); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// offer is a target's signed offer to take a group.
type offer struct {
	id       string
	response *mimiport.MigrationResponse
	keyID    string
}

// offer asks the user's homeserver for an offer to take the group from source at an epoch.
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

// initBody returns the body of an Init with a Commit. It has no valid client's signature and no valid GroupInfo.
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

// id returns the group's id.
func (p *pair) id(t *testing.T) []byte {
	t.Helper()
	id, err := base64.RawURLEncoding.DecodeString(p.Group)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// message returns a message of a kind from a server's log of the group.
func (x *trio) message(t *testing.T, host, kind string) *api.LogMessage {
	t.Helper()
	log := get[api.MessagesResponse](t, x, ask(t, x.alice.User, "GET", at(host, "/groups/"+x.Group+"/messages"), ""))
	for i := range log.Messages {
		if log.Messages[i].Kind == kind {
			return &log.Messages[i]
		}
	}
	t.Fatalf("the log has no %s", kind)
	return nil
}

// altered changes the group id and epoch of a PublicMessage (RFC 9420, section 6). The group ids have 32 bytes.
func altered(message, groupID []byte, epoch byte) []byte {
	const idAt = 2 + 2 + 1 // after the version, the wire format and the id's length
	m := bytes.Clone(message)
	copy(m[idAt:], groupID)
	m[idAt+len(groupID)+7] = epoch
	return m
}
