package edge

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

func ptr[T any](v T) *T { return &v }

func allKinds() (kinds []mimiport.Kind) {
	for k := mimiport.KindInternal; k <= mimiport.KindPeer; k++ {
		kinds = append(kinds, k)
	}
	return kinds
}

// tell writes an error as a route of the federation or client API does.
func tell(err error, federation bool) *http.Response {
	w := httptest.NewRecorder()
	write(w, Route{Federation: federation}.refusal(w.Header(), err))
	return w.Result()
}

func hear(t *testing.T, resp *http.Response) *mimiport.Error {
	t.Helper()
	var body json.RawMessage
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	return ParseError("op", resp.StatusCode, resp.Header, body)
}

func TestErrorRoundTrip(t *testing.T) {
	moved := &mimiport.Moved{
		Server: "t.example", Term: 3, Response: []byte("response"), Confirmation: []byte("confirmation"), KeyID: "ed25519:a",
	}
	info := map[mimiport.Kind]mimiport.Info{
		mimiport.KindInvalid:    {Rule: "ValSem201"},
		mimiport.KindWrongEpoch: {Epoch: ptr(uint64(0))},
		mimiport.KindInProgress: {RetryAfter: 1500 * time.Millisecond},
		mimiport.KindQuota:      {RetryAfter: time.Minute},
		mimiport.KindMoved:      {Moved: moved},

		mimiport.KindBadSignature: {Rule: "time", Now: time.UnixMilli(1_700_000_000_123).UTC()},
	}
	for _, kind := range allKinds() {
		sent := &mimiport.Error{Op: "submit", Kind: kind, Group: []byte{1}, Info: info[kind], Err: errors.New("why")}
		for _, federation := range []bool{false, true} {
			got := hear(t, tell(fmt.Errorf("wrapped: %w", sent), federation))
			want := kind
			if kind == mimiport.KindInternal {
				want = mimiport.KindPeer // a fault of the other server
			}
			if got.Kind != want || !reflect.DeepEqual(got.Info, sent.Info) || got.Op != "op" || got.Err == nil {
				t.Errorf("kind %d: got %+v", kind, got)
			}
		}
	}
}

// "Refusals are typed, never 401 or 5xx (a Matrix peer would back off from the whole server)."
func TestRefusalsToPeers(t *testing.T) {
	for _, kind := range allKinds() {
		resp := tell(&mimiport.Error{Kind: kind}, true)
		if kind == mimiport.KindInternal {
			if resp.StatusCode != http.StatusInternalServerError {
				t.Errorf("internal: %d", resp.StatusCode)
			}
			continue
		}
		if resp.StatusCode < 400 || resp.StatusCode == http.StatusUnauthorized || resp.StatusCode >= 500 {
			t.Errorf("kind %d: %d", kind, resp.StatusCode)
		}
	}
	if resp := tell(&mimiport.Error{Kind: mimiport.KindPeer}, false); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("to clients: %d", resp.StatusCode)
	}
}

func TestRetryAfterHeader(t *testing.T) {
	for wait, want := range map[time.Duration]string{
		0: "", time.Millisecond: "1", time.Second: "1", 1001 * time.Millisecond: "2",
	} {
		err := &mimiport.Error{Kind: mimiport.KindInProgress, Info: mimiport.Info{RetryAfter: wait}}
		if got := tell(err, true).Header.Get("Retry-After"); got != want {
			t.Errorf("%v: got %q, want %q", wait, got, want)
		}
	}
}

func TestParseErrorOfStrangers(t *testing.T) {
	tests := []struct {
		name, body, retry string
		status            int
		kind              mimiport.Kind
		wait              time.Duration
	}{
		{"not JSON", "<html>", "", 502, mimiport.KindPeer, 0},
		{"nothing", "", "", 404, mimiport.KindPeer, 0},
		{"Dendrite's denial", `{"message":"Invalid request signature"}`, "", 401, mimiport.KindPeer, 0},
		{"an internal fault", `{"errcode":"M_UNKNOWN","error":"x"}`, "", 500, mimiport.KindPeer, 0},
		{"no module there", `{"errcode":"M_UNRECOGNIZED","error":"x"}`, "", 404, mimiport.KindUnrecognized, 0},
		{
			"a rate limit in a header", `{"errcode":"M_LIMIT_EXCEEDED","error":"x"}`, "30",
			429, mimiport.KindQuota, 30 * time.Second,
		},
		{"a rate limit of a proxy", `slow down`, "30", 429, mimiport.KindPeer, 30 * time.Second},
		{
			"a wait without end", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":9007199254740991}`, "",
			429, mimiport.KindQuota, maxRetryAfter,
		},
		{"a header without end", `{}`, "9223372036854775807", 429, mimiport.KindPeer, maxRetryAfter},
		{"a wait before now", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":-5}`, "-7", 429, mimiport.KindQuota, 0},
		{"moved to nowhere", `{"errcode":"IO.GITHUB.MIMIPORT.M_GROUP_MOVED"}`, "", 410, mimiport.KindPeer, 0},
		{"wrong epoch without one", `{"errcode":"IO.GITHUB.MIMIPORT.M_WRONG_EPOCH"}`, "", 409, mimiport.KindPeer, 0},
	}
	for _, tt := range tests {
		h := http.Header{}
		h.Set("Retry-After", tt.retry)
		got := ParseError("op", tt.status, h, []byte(tt.body))
		if got.Kind != tt.kind || got.Info.RetryAfter != tt.wait || got.Error() == "" {
			t.Errorf("%s: got %+v", tt.name, got)
		}
	}
}

func FuzzParseError(f *testing.F) {
	f.Add(410, "1", []byte(`{"errcode":"IO.GITHUB.MIMIPORT.M_GROUP_MOVED","moved":{"delivery_service":"x","term":1}}`))
	f.Add(409, "", []byte(`{"errcode":"IO.GITHUB.MIMIPORT.M_WRONG_EPOCH","epoch":7}`))
	f.Fuzz(func(t *testing.T, status int, retry string, body []byte) {
		h := http.Header{}
		h.Set("Retry-After", retry)
		e := ParseError("op", status, h, body)
		if e.Kind == mimiport.KindInternal || e.Info.RetryAfter < 0 || e.Info.RetryAfter > maxRetryAfter {
			t.Fatalf("%+v", e)
		}
		if again := hear(t, tell(e, true)); again.Kind != e.Kind || !cmp.Equal(again.Info, e.Info, cmpopts.EquateEmpty()) {
			t.Fatalf("%+v became %+v", e, again)
		}
	})
}

// Every text of another server is clipped.
func TestPeerTextIsClipped(t *testing.T) {
	loud := strings.Repeat("\x1b[31m\n", 1<<10)
	body, err := json.Marshal(errorBody{
		Code: codePrefix + "M_GROUP_MOVED", Text: loud, Rule: loud, Moved: &api.MovedInfo{DeliveryService: loud, KeyID: loud},
	})
	if err != nil {
		t.Fatal(err)
	}
	e := ParseError("ask", http.StatusGone, http.Header{}, body)
	for _, text := range []string{e.Err.Error(), e.Info.Rule, e.Info.Moved.Server, e.Info.Moved.KeyID} {
		if text == "" || len(text) > 512 || strings.ContainsAny(text, "\x1b\n") {
			t.Errorf("%d bytes: %.20q", len(text), text)
		}
	}
}
