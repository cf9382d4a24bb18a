package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/matrix-org/dendrite/contrib/mimi/adminapi"
	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/party"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// clientsPage returns docs/clients.md.
func clientsPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../docs/clients.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestClientsPageCodes: the page has each error code.
func TestClientsPageCodes(t *testing.T) {
	codes := regexp.MustCompile(`(M_[A-Z_]+): \d{3}\n`).FindAllStringSubmatch(string(api.OpenAPI), -1)
	if len(codes) == 0 {
		t.Fatal("the document of the APIs has no codes")
	}
	for _, code := range codes {
		if !regexp.MustCompile(`(?m)^\| ` + code[1] + `\b`).MatchString(clientsPage(t)) {
			t.Errorf("the page does not say what to do after %s", code[1])
		}
	}
}

// TestClientsPage: each example of the page is like a real message between the reference clients and real homeservers.
// An example has the same fields as the message. Texts are equal, but … stands for any text. Numbers may differ.
func TestClientsPage(t *testing.T) {
	examples := regexp.MustCompile("(?ms)^```json ?(.*?)\n(.*?)^```$").FindAllStringSubmatch(clientsPage(t), -1)
	if len(examples) == 0 {
		t.Fatal("the page has no examples")
	}
	h := overhear(t)
	for _, e := range examples {
		var example any
		if err := json.Unmarshal([]byte(e[2]), &example); err != nil {
			t.Errorf("%s: %v in %s", e[1], err, e[2])
			continue
		}
		h.require(t, e[1], example)
	}
}

// TestExampleIsLike: an example with a missing or another field is not like the message.
func TestExampleIsLike(t *testing.T) {
	said := map[string]any{"seq": 7., "kind": "commit", "end": true, "keys": []any{map[string]any{"ed25519:A": "AQ"}}}
	for example, like := range map[string]bool{
		`{"seq": 1, "kind": "commit", "end": true, "keys": [{"ed25519:…": "…"}]}`:                    true,
		`{"seq": 1, "kind": "c…t", "end": true, "keys": [{"…": "AQ"}]}`:                              true,
		`{"seq": 1, "kind": "commit", "end": true}`:                                                  false,
		`{"seq": 1, "kind": "commit", "end": true, "keys": [{"ed25519:…": "…"}], "x": 1}`:            false,
		`{"number": 1, "kind": "commit", "end": true, "keys": [{"ed25519:…": "…"}]}`:                 false,
		`{"seq": "…", "kind": "commit", "end": true, "keys": [{"ed25519:…": "…"}]}`:                  false,
		`{"seq": 1, "kind": "proposal", "end": true, "keys": [{"ed25519:…": "…"}]}`:                  false,
		`{"seq": 1, "kind": "commit", "end": false, "keys": [{"ed25519:…": "…"}]}`:                   false,
		`{"seq": 1, "kind": "commit", "end": true, "keys": [{"curve25519:…": "…"}]}`:                 false,
		`{"seq": 1, "kind": "commit", "end": true, "keys": [{"ed25519:…": "…"}, {"ed25519:…": ""}]}`: false,
	} {
		var e any
		if err := json.Unmarshal([]byte(example), &e); err != nil {
			t.Fatal(err)
		}
		if err := requireLike(e, said); (err == nil) != like {
			t.Errorf("%s: %v", example, err)
		}
	}
}

// TestClientsPageDirect: the bytes that a device signs, and its header, are on the page as in the test vectors.
func TestClientsPageDirect(t *testing.T) {
	var requests, headers struct {
		Cases []struct {
			Name, Authorization string
			SignedContent       string `json:"signed_content"`
		}
	}
	readVectors(t, "direct_request", &requests)
	readVectors(t, "direct_headers", &headers)
	signed := strings.Join(regexp.MustCompile(`(?m)^[0-9a-f]+`).FindAllString(fenced(t, "signed"), -1), "")
	if len(requests.Cases) == 0 || signed != requests.Cases[0].SignedContent {
		t.Errorf("the page signs %s", signed)
	}
	header := regexp.MustCompile(`\n *`).ReplaceAllString(fenced(t, "authorization"), "")
	if len(headers.Cases) == 0 || header != headers.Cases[0].Authorization {
		t.Errorf("the page sends %s", header)
	}
}

func readVectors(t *testing.T, name string, out any) {
	t.Helper()
	data, err := os.ReadFile("../mimiport/testdata/" + name + ".json")
	if err == nil {
		err = json.Unmarshal(data, out)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// fenced returns the page's only fenced block of a kind.
func fenced(t *testing.T, kind string) string {
	t.Helper()
	blocks := regexp.MustCompile("(?ms)^```"+kind+"\n(.*?)^```$").FindAllStringSubmatch(clientsPage(t), -1)
	if len(blocks) != 1 {
		t.Fatalf("the page has %d blocks of %s", len(blocks), kind)
	}
	return blocks[0][1]
}

// overhear returns all messages while clients create a group, use it, and move it to another server and back. They move
// it back because its host asks for it.
func overhear(t *testing.T) *hearsay {
	t.Helper()
	h := &hearsay{said: make(map[string][]any)}
	servers := harness.StartServers(t, 2)
	a, b := h.before(t, servers[0]), h.before(t, servers[1])
	admin := harness.RegisterUser(t, b, "admin", true)
	setPolicy(t, admin, policy{"target": "joined_servers"})

	alice, bob := harness.RegisterUser(t, a, "alice", false), harness.RegisterUser(t, b, "bob", false)
	carol := harness.RegisterUser(t, a, "carol", false)
	room := harness.SharedRoom(t, alice)
	p, err := party.Create(harness.Within(t), harness.StartTestClient(t, alice), room)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range []*harness.User{bob, carol} {
		harness.Admit(t, alice, room, u)
		if err := p.Add(harness.Within(t), harness.StartTestClient(t, u)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Say(harness.Within(t), p.Members[0]); err != nil {
		t.Fatal(err)
	}
	h.leaveAndMove(t, p, b)
	h.ask(t, p, a, b)

	drainTo(t, p, admin, a)
	back := &pair{Party: p, alice: p.Members[0], bob: p.Members[1]}
	word := adminapi.ReclaimRequest{TargetIsLost: true, AlthoughItAnswers: true}
	back.operate(t, admin, http.MethodPost, "/reclaim", word, nil)
	harness.Do(t, back.alice, "follow", harness.Args{"ds": b.Name}, nil)
	return h
}

// drainTo lets an administrator of the group's host drain it, until the first member has moved the group to a target.
func drainTo(t *testing.T, p *party.Party, admin *harness.User, target *harness.Server) {
	t.Helper()
	do := func(method string, in any) {
		t.Helper()
		if err := admin.Do(harness.Within(t), method, adminapi.PathPrefix+"/drain", in, nil); err != nil {
			t.Fatal(err)
		}
	}
	do(http.MethodPut, api.DrainRequest{Targets: []string{target.Name}})
	harness.Do(t, p.Members[0], "wait_for", harness.Args{"kind": "state", "ds": target.Name}, nil)
	do(http.MethodDelete, nil)
}

// leaveAndMove lets the third member leave. Then the first member moves the group, and commits at the target.
func (h *hearsay) leaveAndMove(t *testing.T, p *party.Party, target *harness.Server) {
	t.Helper()
	alice, carol := p.Members[0], p.Members[2]
	harness.Do(t, carol, "leave", nil, nil)
	harness.Do(t, alice, "wait_for", harness.Args{"kind": "state", "pending_proposals": 1}, nil)
	harness.Do(t, alice, "update", nil, nil)
	p.Members = p.Members[:2]
	p.Move(t, alice, target)
	harness.Do(t, alice, "update", nil, nil)
	p.RequireSettled(t)
	var held json.RawMessage
	harness.Do(t, alice, "export", nil, &held)
	h.add("request recoverGroup", held)
}

// ask makes requests that clients make rarely. The group has moved from one server to another.
func (h *hearsay) ask(t *testing.T, p *party.Party, from, to *harness.Server) {
	t.Helper()
	alice := p.Members[0].User
	do := func(method, ds, route string, in, out any) error {
		return alice.Do(harness.Within(t), method, at(ds, "/groups/"+p.Group+route), in, out)
	}
	must := func(method, route string, in, out any) {
		t.Helper()
		if err := do(method, to.Name, route, in, out); err != nil {
			t.Fatalf("%s %s: %v", method, route, err)
		}
	}
	var former, present api.MessagesResponse
	must(http.MethodGet, "/messages?term=0&from=1", nil, &former)
	must(http.MethodGet, "/messages?term=1&from=1", nil, &present)
	must(http.MethodGet, "/host", nil, nil)
	must(http.MethodGet, "/drift", nil, nil)
	commit := present.Messages[0]
	must(http.MethodPost, "/reports", &api.ReportRequest{Seq: commit.Seq, Reason: "the confirmation tag is wrong"}, nil)
	must(http.MethodPut, "/lineage", &api.LineageRequest{Receipt: commit.Receipt}, nil)
	err := do(http.MethodPost, to.Name, "/messages", &api.SubmitRequest{Message: former.Messages[0].Message}, nil)
	harness.RequireRefused(t, err, prefix+"M_WRONG_EPOCH")
	err = do(http.MethodPost, from.Name, "/messages", &api.SubmitRequest{Message: commit.Message}, nil)
	harness.RequireRefused(t, err, prefix+"M_GROUP_MOVED")
	pointer, err := alice.AwaitPointer(harness.Within(t), p.Room, to.Name, 1)
	if err != nil || pointer.Evidence == nil {
		t.Fatalf("%+v, %v", pointer, err)
	}
}

// hearsay has the messages, by the names that the page gives to its examples.
type hearsay struct {
	mutex sync.Mutex
	said  map[string][]any
}

func (h *hearsay) add(name string, data []byte) {
	var v any
	if json.Unmarshal(data, &v) != nil {
		return // not JSON
	}
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.said[name] = append(h.said[name], v)
}

// before returns a proxy in front of a server, which records all messages of the server's clients.
func (h *hearsay) before(t *testing.T, s *harness.Server) *harness.Server {
	t.Helper()
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = &listener{hearsay: h, routes: heardRoutes()}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	return &harness.Server{Name: s.Name, URL: server.URL}
}

// listener records requests and their answers.
type listener struct {
	*hearsay
	routes map[string]*regexp.Regexp
}

func (l *listener) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	asked := r.Clone(r.Context())
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		asked.Body = io.NopCloser(bytes.NewReader(body))
	}
	resp, err := http.DefaultTransport.RoundTrip(asked)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	l.hear(r.Method+" "+r.URL.EscapedPath(), resp.StatusCode, body, answer)
	return resp, nil
}

// hear records a request and its answer, the events in the answer to a sync, and the content of state events.
func (l *listener) hear(asked string, status int, body, answer []byte) {
	if status != http.StatusOK {
		var e struct {
			Code string `json:"errcode"`
		}
		_ = json.Unmarshal(answer, &e)
		l.add("refusal "+e.Code[strings.LastIndex(e.Code, ".")+1:], answer)
		return
	}
	for name, route := range l.routes {
		if route.MatchString(asked) {
			l.add("request "+name, body)
			l.add("answer "+name, answer)
		}
	}
	if _, state, is := strings.Cut(asked, "/state/"); is {
		l.add("content "+strings.Trim(state, "/"), body)
		l.add("content "+strings.Trim(state, "/"), answer)
	}
	var sync struct {
		ToDevice struct {
			Events []json.RawMessage `json:"events"`
		} `json:"to_device"`
	}
	_ = json.Unmarshal(answer, &sync)
	for _, event := range sync.ToDevice.Events {
		var e struct {
			Type string `json:"type"`
		}
		_ = json.Unmarshal(event, &e)
		l.add("event "+e.Type, event)
	}
}

// heardRoutes returns the routes to record, by their names in the document of the APIs.
func heardRoutes() map[string]*regexp.Regexp {
	routes := map[string]*regexp.Regexp{
		"upload": regexp.MustCompile(`^POST /_matrix/client/v3/keys/upload$`),
		"claim":  regexp.MustCompile(`^POST /_matrix/client/v3/keys/claim$`),
	}
	for _, r := range clientapi.Routes(clientapi.Services{}, nil, 0) {
		path := regexp.MustCompile(`\{\w+\}`).ReplaceAllString(r.Path, "[^/]+")
		routes[r.Name] = regexp.MustCompile("^" + r.Method + " " + clientapi.PathPrefix + path + "$")
	}
	return routes
}

// require fails the test unless a message with the name is like the example.
func (h *hearsay) require(t *testing.T, name string, example any) {
	t.Helper()
	h.mutex.Lock()
	defer h.mutex.Unlock()
	var why []string
	for _, said := range h.said[name] {
		err := requireLike(example, said)
		if err == nil {
			return
		}
		why = append(why, err.Error())
	}
	slices.Sort(why)
	t.Errorf("no message %q is like the example:\n\t%s", name, strings.Join(slices.Compact(why), "\n\t"))
}

// requireLike returns an error unless a value is like an example.
func requireLike(example, said any) error {
	switch e := example.(type) {
	case map[string]any:
		s, _ := said.(map[string]any)
		return requireFields(e, s)
	case []any:
		s, _ := said.([]any)
		return requireElements(e, s)
	case string:
		if s, ok := said.(string); ok && pattern(e).MatchString(s) {
			return nil
		}
	case float64:
		if _, ok := said.(float64); ok {
			return nil
		}
	default:
		if example == said {
			return nil
		}
	}
	return fmt.Errorf(": %v, not %v", said, example)
}

func requireElements(example, said []any) error {
	if len(example) != len(said) {
		return fmt.Errorf(": %d elements, not %d", len(said), len(example))
	}
	for i := range example {
		if err := requireLike(example[i], said[i]); err != nil {
			return fmt.Errorf("[%d]%w", i, err)
		}
	}
	return nil
}

// requireFields returns an error unless each field of an example matches exactly one field of the message, and no field
// is left. A name may contain ….
func requireFields(example, said map[string]any) error {
	left := maps.Clone(said)
	for _, name := range slices.Sorted(maps.Keys(example)) {
		found := slices.DeleteFunc(slices.Collect(maps.Keys(left)), func(s string) bool {
			return !pattern(name).MatchString(s)
		})
		if len(found) != 1 {
			return fmt.Errorf(".%s: there are %d such fields", name, len(found))
		}
		if err := requireLike(example[name], left[found[0]]); err != nil {
			return fmt.Errorf(".%s%w", name, err)
		}
		delete(left, found[0])
	}
	if len(left) > 0 {
		return fmt.Errorf(": there is also %v", slices.Sorted(maps.Keys(left)))
	}
	return nil
}

// pattern returns the pattern of an example's text.
func pattern(text string) *regexp.Regexp {
	return regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(text), "…", ".+") + "$")
}
