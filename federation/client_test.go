package federation_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/fclient"
	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// doer plays the other server.
type doer func(*http.Request) (*http.Response, error)

func (f doer) DoHTTPRequest(_ context.Context, r *http.Request) (*http.Response, error) { return f(r) }

func answers(status int, body io.Reader) doer {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"5"}}, Body: io.NopCloser(body)}, nil
	}
}

// endless is an endless reader of white space.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte{' '}, len(p))), nil }

// A failed request and a malformed answer give a KindPeer error.
func TestPeerFailures(t *testing.T) {
	down := doer(func(*http.Request) (*http.Response, error) { return nil, errors.New("no route") })
	for name, d := range map[string]federation.Doer{
		"unreachable":       down,
		"not JSON":          answers(200, strings.NewReader("<html>")),
		"another shape":     answers(200, strings.NewReader("[]")),
		"cut":               answers(200, io.MultiReader(strings.NewReader(`{"term"`), brokenReader{})),
		"endless":           answers(200, io.MultiReader(strings.NewReader("{}"), endless{})),
		"202 for no reason": answers(202, strings.NewReader("{}")),
		"an internal fault": answers(500, strings.NewReader(`{"errcode":"M_UNKNOWN","error":"x"}`)),
		"a proxy":           answers(504, strings.NewReader("Gateway Timeout")),
	} {
		_, err := client(d).AskStatus(context.Background(), source, target, id)
		if mimiport.KindOf(err) != mimiport.KindPeer {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// All texts of another server are clipped.
func TestPeerTextIsClipped(t *testing.T) {
	loud := strings.Repeat("\x1b[2J\n\u202e", 1<<10)
	quoted, err := json.Marshal(loud)
	if err != nil {
		t.Fatal(err)
	}
	refusal := `{"errcode":"M_FORBIDDEN","error":` + string(quoted) + `}`
	long := refusal + strings.Repeat(" ", 64<<10)
	down := doer(func(*http.Request) (*http.Response, error) { return nil, errors.New(loud) })
	for name, tt := range map[string]struct {
		doer federation.Doer
		kind mimiport.Kind
	}{
		"a refusal":           {answers(403, strings.NewReader(refusal)), mimiport.KindForbidden},
		"a refusal of 64 KiB": {answers(403, strings.NewReader(long)), mimiport.KindPeer},
		"a number of any size": {
			answers(200, strings.NewReader(`{"state":`+strings.Repeat("1", 1<<20)+`}`)), mimiport.KindPeer,
		},
		"a text of a transport": {down, mimiport.KindPeer},
	} {
		_, err := client(tt.doer).AskStatus(context.Background(), source, target, id)
		text := err.Error()
		if len(text) > 600 || strings.ContainsAny(text, "\x1b\n\u202e") || mimiport.KindOf(err) != tt.kind {
			t.Errorf("%s: %d bytes, kind %d: %.50q", name, len(text), mimiport.KindOf(err), text)
		}
	}
	status := `{"state":` + string(quoted) + `,"reason":` + string(quoted) + `}`
	ds := client(answers(200, strings.NewReader(status))).API(source, target)
	st, err := ds.Migration(context.Background(), alice, id)
	if err != nil || st.State != mimiport.Clip(loud) || st.Reason != mimiport.Clip(loud) {
		t.Errorf("got %+v, %v", st, err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// A homeserver sends no number and no limit when its client has sent none. The other server chooses the defaults.
func TestMessagesQuery(t *testing.T) {
	term := uint64(0)
	for want, q := range map[string]api.MessagesQuery{
		"user_id=%40a%3As.example":                        {},
		"term=0&user_id=%40a%3As.example":                 {Term: &term},
		"from=5&limit=10&term=0&user_id=%40a%3As.example": {Term: &term, From: 5, Limit: 10},
	} {
		var got string
		asked := doer(func(r *http.Request) (*http.Response, error) {
			got = r.URL.RawQuery
			return answers(200, strings.NewReader(`{"term":0,"messages":[],"next":1,"end":true}`))(r)
		})
		user := api.Caller{UserID: "@a:s.example", Server: source}
		_, err := client(asked).API(source, target).Messages(context.Background(), user, group, q)
		if err != nil || got != want {
			t.Errorf("%+v becomes the query %s: %v", q, got, err)
		}
	}
}

// The limit for a tree is larger than the limit for other answers.
func TestLargeTree(t *testing.T) {
	large := bytes.Repeat([]byte{1}, 17<<20)
	ds := client(answers(200, bytes.NewReader(large))).API(source, target)
	tree, err := ds.RatchetTree(context.Background(), alice, group, 7)
	if err != nil || !bytes.Equal(tree, large) {
		t.Errorf("got %d bytes, %v", len(tree), err)
	}
}

func TestRetryAfterIsHeard(t *testing.T) {
	_, err := client(answers(503, strings.NewReader("busy"))).AskStatus(context.Background(), source, target, id)
	var e *mimiport.Error
	if !errors.As(err, &e) || e.Info.RetryAfter != 5*time.Second {
		t.Errorf("got %v", err)
	}
}

// The client signs only in the name of local servers.
func TestForeignIdentity(t *testing.T) {
	refuse := func(string) (*fclient.SigningIdentity, error) { return nil, errors.New("not ours") }
	c := federation.NewClient(refuse, answers(200, strings.NewReader("{}")), clock)
	if _, err := c.AskStatus(context.Background(), "other.example", target, id); err == nil {
		t.Error("asked")
	}
}

func TestSenderRoutes(t *testing.T) {
	var local []string
	s := &federation.Sender{
		Client:  client(answers(200, strings.NewReader("{}"))),
		IsLocal: func(server string) bool { return server == source },
		Local:   localFunc(func(to string) { local = append(local, to) }),
	}
	for _, to := range []string{source, target} {
		if n, err := s.ToDevice(context.Background(), source, to, oneEvent(nil)); n != 1 || err != nil {
			t.Error(n, err)
		}
	}
	if !slices.Equal(local, []string{source}) {
		t.Errorf("delivered locally: %v", local)
	}
}

type localFunc func(to string)

func (f localFunc) ToDevice(_ context.Context, _, to string, events []api.DeviceEvent) (int, error) {
	f(to)
	return len(events), nil
}

// oneEvent is an event without content to devices.
func oneEvent(devices map[string][]string) []api.DeviceEvent {
	return []api.DeviceEvent{{ID: "txn", Type: api.EventMessage, Devices: devices, Content: json.RawMessage("{}")}}
}

// mailbox plays the route /send of a homeserver.
type mailbox struct {
	transactions map[string]gomatrixserverlib.Transaction // by path
	messageIDs   map[string]bool
	got          map[string]map[string][]string // user id → device id → contents
	largest      int
}

func (m *mailbox) DoHTTPRequest(_ context.Context, r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var txn gomatrixserverlib.Transaction
	if err := json.Unmarshal(body, &txn); err != nil {
		return nil, err
	}
	m.largest = max(m.largest, len(body))
	m.transactions[r.URL.Path] = txn
	for _, edu := range txn.EDUs {
		var msg gomatrixserverlib.ToDeviceMessage
		if err := json.Unmarshal(edu.Content, &msg); err != nil {
			return nil, err
		}
		m.receive(msg)
	}
	return answers(200, strings.NewReader(`{"pdus":{}}`))(r)
}

func (m *mailbox) receive(msg gomatrixserverlib.ToDeviceMessage) {
	m.messageIDs[msg.MessageID] = true
	for user, byDevice := range msg.Messages {
		for device, content := range byDevice {
			if m.got[user] == nil {
				m.got[user] = make(map[string][]string)
			}
			m.got[user][device] = append(m.got[user][device], string(content))
		}
	}
}

func newMailbox() *mailbox {
	return &mailbox{map[string]gomatrixserverlib.Transaction{}, map[string]bool{}, map[string]map[string][]string{}, 0}
}

// For any number of devices, each gets the event once, in transactions that a homeserver accepts.
func TestToDeviceSplitting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[A-Z<&é]{1,12}`)
		devices := rapid.MapOfN(name, rapid.SliceOfN(name, 0, 12), 0, 3).Draw(t, "devices")
		size := rapid.SampledFrom([]int{0, 200, 5_000, 44_000}).Draw(t, "size")
		content, err := json.Marshal(map[string]string{"message": strings.Repeat("A", size)})
		if err != nil {
			t.Fatal(err)
		}
		box := newMailbox()
		for range 2 { // the second call sends the same transactions
			clear(box.got)
			events := []api.DeviceEvent{{ID: "txn", Type: api.EventMessage, Devices: devices, Content: content}}
			if n, err := client(box).ToDevice(context.Background(), source, target, events); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
		want := map[string]map[string][]string{}
		for user, ids := range devices {
			for _, device := range ids {
				if want[user] == nil {
					want[user] = map[string][]string{}
				}
				want[user][device] = []string{string(content)}
			}
		}
		if diff := cmp.Diff(want, box.got); diff != "" {
			t.Fatal(diff)
		}
		checkTransactions(t, box)
	})
}

// TestUnsignableNames: a server signs no request with a user or device that another homeserver could take for more than
// a name.
func TestUnsignableNames(t *testing.T) {
	box := newMailbox()
	c := client(box)
	for _, name := range []string{`"`, `\`, "\n", "\x00", `D":{}},"@victim:x":{"D`} {
		user := "@" + name + ":x"
		for _, devices := range []map[string][]string{{"@u:x": {"D", name}}, {user: {"D"}}} {
			events := []api.DeviceEvent{{ID: "txn", Type: api.EventMessage, Devices: devices, Content: []byte(`{}`)}}
			n, err := c.ToDevice(t.Context(), source, target, events)
			if n != 0 || mimiport.KindOf(err) != mimiport.KindBadMessage {
				t.Errorf("to %q: %d %v", devices, n, err)
			}
		}
		if _, err := c.DeviceKeys(t.Context(), source, target, []string{user}); err == nil {
			t.Errorf("the devices of %q: no error", user)
		}
		req := &api.ClaimLastResortsRequest{Devices: map[string][]string{user: {"D"}}}
		_, err := c.API(source, target).ClaimLastResorts(t.Context(), api.Caller{UserID: "@u:" + source}, req)
		if mimiport.KindOf(err) != mimiport.KindBadMessage {
			t.Errorf("the KeyPackages of %q: %v", user, err)
		}
	}
	if len(box.transactions) > 0 {
		t.Errorf("the server has sent %v", box.transactions)
	}
}

func checkTransactions(t *rapid.T, box *mailbox) {
	edus := 0
	for _, txn := range box.transactions {
		edus += len(txn.EDUs)
		if len(txn.EDUs) == 0 || len(txn.EDUs) > 100 || len(txn.PDUs) > 0 || txn.Origin != source {
			t.Fatalf("a transaction of %d EDUs from %s", len(txn.EDUs), txn.Origin)
		}
		for _, edu := range txn.EDUs {
			if edu.Type != "m.direct_to_device" || len(edu.Content) > 1<<16 {
				t.Fatalf("%s of %d bytes", edu.Type, len(edu.Content))
			}
		}
	}
	if len(box.messageIDs) != edus {
		t.Fatalf("%d message ids for %d EDUs", len(box.messageIDs), edus)
	}
	for id := range box.messageIDs {
		if len(id) > 32 {
			t.Fatalf("message id of %d characters", len(id))
		}
	}
	if box.largest > 520<<10 {
		t.Fatalf("a transaction of %d bytes", box.largest)
	}
}

// Many events travel in few transactions, in order, and a repetition sends the same transactions.
func TestToDeviceBatch(t *testing.T) {
	for _, test := range []struct{ events, size, transactions int }{
		{100, 10, 1}, {101, 10, 2}, {250, 10, 3}, {30, 40_000, 3}, {1, 10, 1}, {0, 10, 0},
	} {
		var events []api.DeviceEvent
		var want []string
		for i := range test.events {
			want = append(want, fmt.Sprintf(`"%0*d"`, test.size, i))
			events = append(events, api.DeviceEvent{Type: api.EventMessage,
				ID: fmt.Sprint(i), Devices: map[string][]string{"@a:x": {"D"}}, Content: json.RawMessage(want[i]),
			})
		}
		box := newMailbox()
		for range 2 {
			clear(box.got)
			if n, err := client(box).ToDevice(context.Background(), source, target, events); n != len(events) || err != nil {
				t.Fatalf("%d of %d events arrived: %v", n, len(events), err)
			}
		}
		if got := box.got["@a:x"]["D"]; !slices.Equal(got, want) {
			t.Errorf("%d events of %d bytes arrived in another order", test.events, test.size)
		}
		if n := len(box.transactions); n != test.transactions || box.largest > 520<<10 {
			t.Errorf("%d transactions of up to %d bytes, want %d", n, box.largest, test.transactions)
		}
	}
}

// If a server refuses one EDU, what precedes it arrives, and what follows it does not.
func TestToDeviceRefused(t *testing.T) {
	for _, status := range []int{400, 413} {
		for bad := range 7 {
			box := newMailbox()
			refusing := doer(func(r *http.Request) (*http.Response, error) {
				body, err := io.ReadAll(r.Body)
				if err != nil || bytes.Contains(body, []byte("bad")) {
					return answers(status, strings.NewReader(`{"errcode":"M_UNKNOWN"}`))(r)
				}
				r.Body = io.NopCloser(bytes.NewReader(body))
				return box.DoHTTPRequest(r.Context(), r)
			})
			var events []api.DeviceEvent
			var want []string
			for i := range 7 {
				content := fmt.Sprintf(`"%d"`, i)
				if i == bad {
					content = `"bad"`
				}
				if i < bad {
					want = append(want, content)
				}
				events = append(events, api.DeviceEvent{Type: api.EventMessage,
					ID: fmt.Sprint(i), Devices: map[string][]string{"@a:x": {"D"}}, Content: json.RawMessage(content),
				})
			}
			n, err := client(refusing).ToDevice(context.Background(), source, target, events)
			if n != bad || mimiport.KindOf(err) != mimiport.KindInvalid || !slices.Equal(box.got["@a:x"]["D"], want) {
				t.Errorf("%d: %d events arrived, %v, before the bad number %d: %v", status, n, box.got, bad, err)
			}
		}
	}
}

// A receiver drops a transaction with a known id. When a device has gone between two attempts, later devices move to
// earlier transactions. A changed transaction must have a new id.
func TestToDeviceAfterChange(t *testing.T) {
	devices := map[string][]string{"@a:x": make([]string, 40)}
	for i := range devices["@a:x"] {
		devices["@a:x"][i] = strings.Repeat("D", i+1)
	}
	content := json.RawMessage(`"` + strings.Repeat("A", 40_000) + `"`)
	first, second := newMailbox(), newMailbox()
	for _, box := range []*mailbox{first, second} {
		events := []api.DeviceEvent{{ID: "txn", Type: api.EventMessage, Devices: devices, Content: content}}
		if _, err := client(box).ToDevice(context.Background(), source, target, events); err != nil {
			t.Fatal(err)
		}
		devices["@a:x"] = devices["@a:x"][1:]
	}
	for path, txn := range second.transactions {
		if before, ok := first.transactions[path]; ok && !cmp.Equal(before, txn) {
			t.Errorf("two transactions have the path %s", path)
		}
	}
	if len(first.transactions) < 3 {
		t.Errorf("%v", slices.Collect(maps.Keys(first.transactions)))
	}
}

func TestToDeviceFailure(t *testing.T) {
	devices := map[string][]string{"@a:x": {"D"}}
	deliver := func(devices map[string][]string) error {
		c := client(answers(502, strings.NewReader("")))
		_, err := c.ToDevice(context.Background(), source, target, oneEvent(devices))
		return err
	}
	err := deliver(devices)
	if mimiport.KindOf(err) != mimiport.KindPeer {
		t.Errorf("got %v", err)
	}
	if err := deliver(nil); err != nil {
		t.Errorf("no devices: %v", err)
	}
}
