package clientapi_test

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/mux"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api/openapitest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/storage/memory"
)

const (
	carol      = "@carol:elsewhere.example"
	phone      = "CAROLPHONE"
	groupURI   = clientapi.PathPrefix + "/ds/" + here + "/groups/AAAA"
	messages   = groupURI + "/messages"
	submission = `{"message":"AAEC"}`
)

// listener is a Delivery Service that records its callers and their messages.
type listener struct {
	api.API
	callers  []api.Caller
	messages []string
}

func (l *listener) Group(_ context.Context, c api.Caller, _ []byte) (*api.GroupResponse, error) {
	l.callers = append(l.callers, c)
	return nil, mimiport.Errorf("group", mimiport.KindUnknownGroup, "heard")
}

func (l *listener) Submit(
	_ context.Context, c api.Caller, _ []byte, q *api.SubmitRequest,
) (*api.SubmitResponse, error) {
	l.callers, l.messages = append(l.callers, c), append(l.messages, string(q.Message))
	return nil, mimiport.Errorf("submit", mimiport.KindUnknownGroup, "heard")
}

func (l *listener) RequireReserver(context.Context, api.Caller, []byte) error { return nil }

func (l *listener) BindGroup(
	_ context.Context, c api.Caller, id []byte, _ *api.BindGroupRequest,
) (*api.GroupResponse, error) {
	l.callers = append(l.callers, c)
	return &api.GroupResponse{GroupID: id, RoomID: roomID, State: "active", DeliveryService: here}, nil
}

// counter is a Delivery Service for direct requests of devices of other servers.
type counter struct {
	t       *testing.T
	service listener
	asked   []string      // the keys that it asked for, and under which name
	silent  error         // the error of a request for a key; nil to return the key
	takes   time.Duration // the time that a request for a key takes
	time    time.Time
	rates   *edge.Rates
	handler http.Handler
}

func newCounter(t *testing.T, perUser, perServer int) *counter {
	c := &counter{t: t, time: now}
	clock := func() time.Time { return c.time }
	c.rates = edge.NewRates(perUser, perServer, clock)
	isLocal := func(server string) bool { return server == here }
	direct := &clientapi.Direct{
		IsLocal: isLocal, Nonces: memory.New(), Rates: c.rates, Now: clock,
		Key: func(_ context.Context, from string, of api.DirectKey) ([]byte, error) {
			c.asked = append(c.asked, from+": "+api.DeviceKeyName(of.Scheme, of.DeviceID))
			c.time = c.time.Add(c.takes)
			return key(of.UserID + of.DeviceID).Public().(ed25519.PublicKey), c.silent
		},
	}
	services := clientapi.Services{IsLocal: isLocal, Local: &c.service}
	router := mux.NewRouter().SkipClean(true).UseEncodedPath()
	edge.Mount(router.PathPrefix(clientapi.PathPrefix).Subrouter(), clientapi.Routes(services, nil, 1<<20),
		direct.Authenticate, edge.NewBodies(256<<20), slog.New(slog.DiscardHandler))
	c.handler = openapitest.New(t).Handler(router)
	return c
}

// request makes a request of carol's phone, signed now. The nonce holds the number.
func request(number uint64, method, uri, body string) *mimiport.DirectRequest {
	r := &mimiport.DirectRequest{
		Service: here, Method: method, URI: uri, BodyHash: sha256.Sum256([]byte(body)),
		UserID: carol, DeviceID: phone, Time: uint64(now.UnixMilli()),
	}
	binary.BigEndian.PutUint64(r.Nonce[:], number)
	return r
}

// authorization signs a request with the device's key.
func authorization(t *testing.T, r *mimiport.DirectRequest) string {
	t.Helper()
	content, err := r.SignContent()
	if err != nil {
		t.Fatal(err)
	}
	r.Signature = ed25519.Sign(key(r.UserID+r.DeviceID), content)
	return api.DirectHeader(r, "ed25519")
}

// answer is the answer to a request.
type answer struct {
	status     int
	Code       string `json:"errcode"`
	Text       string `json:"error"`
	Rule       string
	ServerTime int64 `json:"server_time"`
	RetryAfter int64 `json:"retry_after_ms"`
}

// send sends a request with any Authorization header.
func (c *counter) send(method, uri, body, authorization string) (a answer) {
	c.t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, uri, content)
	r.Header.Set("Authorization", authorization)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	c.handler.ServeHTTP(w, r)
	if err := json.NewDecoder(w.Body).Decode(&a); err != nil {
		c.t.Fatal(err)
	}
	a.status = w.Code
	return a
}

func (c *counter) want(what string, a answer, status int, code, rule string) {
	c.t.Helper()
	if a.status != status || !strings.HasSuffix(a.Code, code) || a.Rule != rule {
		c.t.Errorf("%s: %+v, want %d %s %q", what, a, status, code, rule)
	}
}

func (c *counter) wantHeard(what string, a answer) {
	c.t.Helper()
	c.want(what, a, http.StatusNotFound, "M_UNKNOWN_GROUP", "")
}

// TestDirectRequest: a device of another server can send requests for its user. This server asks the user's server for
// the device's key, under the name to which the request was sent.
func TestDirectRequest(t *testing.T) {
	c := newCounter(t, 0, 0)
	get := request(1, "GET", groupURI, "")
	c.wantHeard("a read", c.send("GET", groupURI, "", authorization(t, get)))
	post := request(2, "POST", messages, submission)
	c.wantHeard("a submission", c.send("POST", messages, submission, authorization(t, post)))
	want := api.Caller{UserID: carol, Server: "elsewhere.example", DeviceID: phone, To: here}
	if len(c.service.callers) != 2 || c.service.callers[0] != want || c.service.callers[1] != want {
		t.Errorf("the service was called by %+v", c.service.callers)
	}
	if len(c.service.messages) != 1 || c.service.messages[0] != "\x00\x01\x02" {
		t.Errorf("heard %q", c.service.messages)
	}
	if len(c.asked) != 2 || c.asked[0] != here+": io.github.mimiport.ed25519:"+phone {
		t.Errorf("asked for %q", c.asked)
	}
}

// TestStolenDirectRequest: a signature is valid once, and only for the signed service, method, URI, body, user, device
// and time. A refused request does not use up its nonce.
func TestStolenDirectRequest(t *testing.T) {
	for name, change := range map[string]func(*mimiport.DirectRequest){
		"service": func(r *mimiport.DirectRequest) { r.Service = other },
		"method":  func(r *mimiport.DirectRequest) { r.Method = "PUT" },
		"URI":     func(r *mimiport.DirectRequest) { r.URI += "?from=1" },
		"user":    func(r *mimiport.DirectRequest) { r.UserID = "@dave:elsewhere.example" },
		"device":  func(r *mimiport.DirectRequest) { r.DeviceID = "OTHER" },
		"time":    func(r *mimiport.DirectRequest) { r.Time++ },
		"nonce":   func(r *mimiport.DirectRequest) { r.Nonce[31]++ },
		"hash":    func(r *mimiport.DirectRequest) { r.BodyHash[0]++ },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCounter(t, 0, 0)
			signed := request(1, "POST", messages, submission)
			change(signed)
			authorization(t, signed)
			stolen := request(1, "POST", messages, submission)
			stolen.Signature = signed.Signature
			c.want("stolen", c.send("POST", messages, submission, api.DirectHeader(stolen, "ed25519")),
				http.StatusForbidden, "M_BAD_SIGNATURE", "")
			c.wantHeard("its owner's", c.send("POST", messages, submission, authorization(t, stolen)))
		})
	}
	c := newCounter(t, 0, 0)
	header := authorization(t, request(1, "POST", messages, submission))
	c.want("with another body", c.send("POST", messages, `{"message":"AAED"}`, header),
		http.StatusForbidden, "M_BAD_SIGNATURE", "")
	header = authorization(t, request(2, "GET", groupURI, submission))
	c.want("without the body", c.send("GET", groupURI, "", header), http.StatusForbidden, "M_BAD_SIGNATURE", "")
	header = authorization(t, request(3, "GET", groupURI, ""))
	c.wantHeard("the first time", c.send("GET", groupURI, "", header))
	c.want("again", c.send("GET", groupURI, "", header), http.StatusForbidden, "M_BAD_SIGNATURE", "nonce")
	if n := len(c.service.callers); n != 1 {
		t.Errorf("the service was asked %d times", n)
	}
}

// TestDirectRequestTime: the server accepts a request signed within five minutes of its own time. Its refusal of any
// other request has the server's time. The server keeps a nonce until a request with it would be too old.
func TestDirectRequestTime(t *testing.T) {
	const limit = 5 * time.Minute
	for off, heard := range map[time.Duration]bool{
		0: true, limit: true, -limit: true, limit + time.Millisecond: false, -limit - time.Millisecond: false,
	} {
		c := newCounter(t, 0, 0)
		header := authorization(t, request(1, "GET", groupURI, ""))
		c.time = now.Add(off)
		a := c.send("GET", groupURI, "", header)
		if heard {
			c.wantHeard(off.String(), a)
			continue
		}
		c.want(off.String(), a, http.StatusForbidden, "M_BAD_SIGNATURE", "time")
		if a.ServerTime != c.time.UnixMilli() || len(c.asked) != 0 {
			t.Errorf("%v: the refusal has the time %d, and the server asked for %q", off, a.ServerTime, c.asked)
		}
	}
	c := newCounter(t, 0, 0)
	header := authorization(t, request(1, "GET", groupURI, ""))
	c.time = now.Add(-limit)
	c.wantHeard("early", c.send("GET", groupURI, "", header))
	c.time = now.Add(limit)
	c.want("as late as can be", c.send("GET", groupURI, "", header), http.StatusForbidden, "M_BAD_SIGNATURE", "nonce")
	c.takes = time.Minute // in which the nonce may be forgotten
	c.want("late when it is known", c.send("GET", groupURI, "", header), http.StatusForbidden, "M_BAD_SIGNATURE", "time")
}

// TestDirectRequestHome: when the device's homeserver does not answer, the refusal says so.
func TestDirectRequestHome(t *testing.T) {
	c := newCounter(t, 0, 0)
	c.silent = mimiport.Errorf("ask", mimiport.KindPeer, "no answer")
	a := c.send("GET", groupURI, "", authorization(t, request(1, "GET", groupURI, "")))
	if a.status != http.StatusBadGateway || a.Rule != "homeserver" || len(c.service.callers) != 0 {
		t.Errorf("got %+v, the service was called by %v", a, c.service.callers)
	}
}

// TestDirectRequestPlace: the server refuses direct requests of its own users, who have tokens, and direct requests for
// services of other servers. It asks nobody for a key then.
func TestDirectRequestPlace(t *testing.T) {
	c := newCounter(t, 0, 0)
	own := request(1, "GET", groupURI, "")
	own.UserID = alice
	a := c.send("GET", groupURI, "", authorization(t, own))
	c.want("a user of this server", a, http.StatusForbidden, "M_FORBIDDEN", "")
	if !strings.Contains(a.Text, "access token") {
		t.Errorf("told %q", a.Text)
	}
	uri := strings.Replace(groupURI, here, other, 1)
	elsewhere := request(2, "GET", uri, "")
	elsewhere.Service = other
	c.want("another server's service", c.send("GET", uri, "", authorization(t, elsewhere)),
		http.StatusForbidden, "M_FORBIDDEN", "")
	c.want("no header", c.send("GET", groupURI, "", "MimiDevice"), http.StatusBadRequest, "M_BAD_MESSAGE", "")
	if len(c.asked) != 0 {
		t.Errorf("asked for %q", c.asked)
	}
}

// TestDirectRequestNames: the server refuses users and devices whose ids JSON escapes. It asks nobody for a key then.
func TestDirectRequestNames(t *testing.T) {
	c := newCounter(t, 0, 0)
	for i, change := range []func(*mimiport.DirectRequest){
		func(r *mimiport.DirectRequest) { r.DeviceID = `PHONE"` },
		func(r *mimiport.DirectRequest) { r.DeviceID = `PHONE\` },
		func(r *mimiport.DirectRequest) { r.DeviceID = "PHONE\n" },
		func(r *mimiport.DirectRequest) { r.UserID = `@carol":[],"@dave:elsewhere.example` },
	} {
		r := request(uint64(i), "GET", groupURI, "")
		change(r)
		c.want(r.UserID+" "+r.DeviceID, c.send("GET", groupURI, "", authorization(t, r)), http.StatusBadRequest,
			"M_BAD_MESSAGE", "")
	}
	if len(c.asked) != 0 {
		t.Errorf("asked for %q", c.asked)
	}
}

// TestDirectRequestRates: a device has the request rate of a user of this server, within the rate of its homeserver. A
// request with a wrong signature counts for neither.
func TestDirectRequestRates(t *testing.T) {
	c := newCounter(t, 1, 2)
	number := uint64(0)
	ask := func(device string) answer {
		number++
		r := request(number, "GET", groupURI, "")
		r.DeviceID = device
		return c.send("GET", groupURI, "", authorization(t, r))
	}
	for range 30 {
		forged := request(0, "GET", groupURI, "")
		authorization(t, forged)
		forged.Time++
		c.want("forged", c.send("GET", groupURI, "", api.DirectHeader(forged, "ed25519")),
			http.StatusForbidden, "M_BAD_SIGNATURE", "")
	}
	for _, device := range []string{"A", "B"} {
		for range 10 {
			c.wantHeard(device, ask(device))
		}
		c.want("one more of "+device, ask(device), http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", "requests_per_second")
	}
	c.want("a third device", ask("C"), http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", "requests_per_second")
}

// TestDirectFlood: all devices of one homeserver together, with direct requests and over federation, can use only the
// rate of that homeserver. The server still serves devices of other homeservers, other servers and its own users.
func TestDirectFlood(t *testing.T) {
	c := newCounter(t, 1, 2)
	ask := func(number uint64, user string) answer {
		r := request(number, "GET", groupURI, "")
		r.UserID, r.DeviceID = user, fmt.Sprint("DEVICE", number)
		return c.send("GET", groupURI, "", authorization(t, r))
	}
	heard := 0
	for number := range uint64(200) {
		if a := ask(number, fmt.Sprintf("@user%d:elsewhere.example", number)); a.status == http.StatusNotFound {
			heard++
		} else {
			c.want("of the flood", a, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", "requests_per_second")
		}
	}
	if heard != 20 {
		t.Errorf("%d requests of the flood are served", heard)
	}
	is := func(caller api.Caller) edge.Authenticate {
		return func(*http.Request) (api.Caller, error) { return caller, nil }
	}
	federation := func(server string) error {
		_, err := c.rates.Servers(is(api.Caller{UserID: "@user:" + server, Server: server}))(nil)
		return err
	}
	if err := federation("elsewhere.example"); mimiport.KindOf(err) != mimiport.KindQuota {
		t.Errorf("the flooding server over federation: %v", err)
	}
	c.wantHeard("a device of another server", ask(1, "@dave:third.example"))
	if err := federation("third.example"); err != nil {
		t.Errorf("another server over federation: %v", err)
	}
	if _, err := c.rates.Users(is(api.Caller{UserID: alice, Server: here}))(nil); err != nil {
		t.Errorf("a user of this server: %v", err)
	}
	c.time = c.time.Add(time.Second)
	c.wantHeard("a refused request of the flood, which has used no nonce", ask(199, "@user199:elsewhere.example"))
}

// TestDirectRequestAnnouncesNothing: this homeserver sends events only for its own users. This test has no Home that
// could send events.
func TestDirectRequestAnnouncesNothing(t *testing.T) {
	c := newCounter(t, 0, 0)
	bound := request(1, "PUT", groupURI, `{"protocol":"mls10","group_info":"AAEC"}`)
	a := c.send("PUT", groupURI, `{"protocol":"mls10","group_info":"AAEC"}`, authorization(t, bound))
	if a.status != http.StatusOK || len(c.service.callers) != 1 {
		t.Errorf("got %+v, asked by %v", a, c.service.callers)
	}
}
