package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

var quiet = slog.New(slog.DiscardHandler)

// anybody authenticates without reading the body, as with access tokens. signed reads the body first, as with X-Matrix.
func anybody(*http.Request) (api.Caller, error) { return api.Caller{UserID: "@a:hs"}, nil }

func signed(r *http.Request) (api.Caller, error) {
	if _, err := io.ReadAll(r.Body); err != nil {
		return api.Caller{}, &Denied{Status: http.StatusBadRequest, Body: "Bad Request"}
	}
	return api.Caller{Server: "hs"}, nil
}

func router(auth Authenticate, routes ...Route) *mux.Router {
	return routerWith(auth, NewBodies(1<<20), routes...)
}

func routerWith(auth Authenticate, bodies *Bodies, routes ...Route) *mux.Router {
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	Mount(r, routes, auth, bodies, quiet)
	return r
}

func do(h http.Handler, method, uri string, body io.Reader) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, uri, body))
	return w
}

type note struct {
	Text string `json:"text"`
	Key  []byte `json:"key,omitempty"`
}

// echo answers with the parts of the request.
func echo(maxBody int64) Route {
	at := api.Route{Name: "echo", Method: http.MethodPut, Path: "/echo/{groupId}", MaxBody: maxBody}
	return Route{Route: at, Serve: func(_ context.Context, r *Request) (any, error) {
		id, err := GroupID(r)
		if err != nil {
			return nil, err
		}
		n, err := Decode[note](r)
		if err != nil {
			return nil, err
		}
		if _, err := Uint(r, "n"); err != nil {
			return nil, err
		}
		n.Key = id
		return n, nil
	}}
}

// TestRefusedBody: the refusal of a body names the field, and no type of Go.
func TestRefusedBody(t *testing.T) {
	for body, want := range map[string]string{
		`{"text":1}`:    "read body: text must be a string, not a number",
		`{"key":[256]}`: "read body: key must be an integer from 0 to 255, not the number 256",
		`[]`:            "read body: the text must be an object, not an array",
	} {
		w := do(router(anybody, echo(64)), "PUT", "/echo/AQID", strings.NewReader(body))
		var e errorBody
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Text != want {
			t.Errorf("%s: %s, not %q", body, w.Body, want)
		}
	}
}

func TestRequests(t *testing.T) {
	long := `{"text":"` + strings.Repeat("x", 100) + `"}`
	chunked := func() io.Reader { return struct{ io.Reader }{strings.NewReader(long)} }
	const bad = codePrefix + "M_BAD_MESSAGE"
	tests := []struct {
		name, method, uri string
		body              io.Reader
		status            int
		code              string
	}{
		{"good", "PUT", "/echo/AQID", strings.NewReader(`{"text":"x"}`), 200, ""},
		{"unknown fields are ignored", "PUT", "/echo/AQID", strings.NewReader(`{"text":"x","y":1}`), 200, ""},
		{"unknown path", "PUT", "/other", nil, 404, ""},
		{"unknown method", "POST", "/echo/AQID", nil, 405, ""},
		{"too large", "PUT", "/echo/AQID", strings.NewReader(long), 413, "M_TOO_LARGE"},
		{"too large without a length", "PUT", "/echo/AQID", chunked(), 413, "M_TOO_LARGE"},
		{"no body", "PUT", "/echo/AQID", nil, 400, bad},
		{"not JSON", "PUT", "/echo/AQID", strings.NewReader(`text`), 400, bad},
		{"trailing data", "PUT", "/echo/AQID", strings.NewReader(`{"text":"x"}{}`), 400, bad},
		{"wrong type", "PUT", "/echo/AQID", strings.NewReader(`{"text":1}`), 400, bad},
		{"2^53-1 in the body", "PUT", "/echo/AQID", strings.NewReader(`{"y":[9007199254740991,1e99]}`), 200, ""},
		{"-(2^53-1) in the body", "PUT", "/echo/AQID", strings.NewReader(`{"y":-9007199254740991}`), 200, ""},
		{"2^53 in the body", "PUT", "/echo/AQID", strings.NewReader(`{"y":9007199254740992}`), 400, bad},
		{"-2^53 in the body", "PUT", "/echo/AQID", strings.NewReader(`{"y":-9007199254740992}`), 400, bad},
		{"2^64 in the body", "PUT", "/echo/AQID", strings.NewReader(`{"y":18446744073709551616}`), 400, bad},
		{"not UTF-8", "PUT", "/echo/AQID", strings.NewReader("{\"text\":\"\xff\"}"), 400, bad},
		{"a query that is not UTF-8", "PUT", "/echo/AQID?n=%ff", strings.NewReader(`{}`), 400, bad},
		{"digits in a string", "PUT", "/echo/AQID", strings.NewReader(`{"y\\\"":"\"18446744073709551616"}`), 200, ""},
		{"padded id", "PUT", "/echo/AQI%3D", strings.NewReader(`{}`), 400, bad},
		{"standard base64 id", "PUT", "/echo/%2F%2F8", strings.NewReader(`{}`), 400, bad},
		{"id with loose bits", "PUT", "/echo/AQI9", strings.NewReader(`{}`), 200, ""},
		{"id that encodes two ways", "PUT", "/echo/AR", strings.NewReader(`{}`), 400, bad},
		{"id of 256 bytes", "PUT", "/echo/" + strings.Repeat("A", 342), strings.NewReader(`{}`), 400, bad},
		{"bad escape in query", "PUT", "/echo/AQID?n=%zz", strings.NewReader(`{}`), 400, bad},
		{"not a number", "PUT", "/echo/AQID?n=-1", strings.NewReader(`{}`), 400, bad},
		{"2^53", "PUT", "/echo/AQID?n=9007199254740992", strings.NewReader(`{}`), 400, bad},
		{"repeated", "PUT", "/echo/AQID?n=1&n=2", strings.NewReader(`{}`), 400, bad},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for name, auth := range map[string]Authenticate{"token": anybody, "signature": signed} {
				if s, ok := tt.body.(io.Seeker); ok {
					_, _ = s.Seek(0, io.SeekStart)
				} else if tt.body != nil {
					tt.body = chunked()
				}
				w := do(router(auth, echo(64)), tt.method, tt.uri, tt.body)
				var e errorBody
				if w.Code == 404 || w.Code == 405 {
					// The host's router answers.
				} else if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
					t.Errorf("%s: %v in %q", name, err, w.Body)
				}
				if w.Code != tt.status || e.Code != tt.code {
					t.Errorf("%s: got %d %s, want %d %s", name, w.Code, e.Code, tt.status, tt.code)
				}
			}
		})
	}
}

// "path vars must be unescaped exactly once"
func TestPathVariableIsUnescapedOnce(t *testing.T) {
	var got string
	at := api.Route{Method: http.MethodGet, Path: "/x/{name}"}
	rt := Route{Route: at, Serve: func(_ context.Context, r *Request) (any, error) {
		got = r.Vars["name"]
		return struct{}{}, nil
	}}
	if do(router(anybody, rt), "GET", "/x/a%2Fb%253A", nil); got != "a/b%3A" {
		t.Errorf("got %q", got)
	}
}

// Authentication does not get a raw body, and nothing reads the body before authentication has passed.
func TestRawBodyIsReadAfterAuthentication(t *testing.T) {
	body := &countingReader{Reader: strings.NewReader("raw content")}
	at := api.Route{Method: http.MethodPut, Path: "/raw", MaxBody: 64, RawBody: true}
	rt := Route{Route: at, Serve: func(_ context.Context, r *Request) (any, error) {
		data, err := r.Body()
		return Raw(data), err
	}}
	deny := func(r *http.Request) (api.Caller, error) {
		if data, err := io.ReadAll(r.Body); err != nil || len(data) > 0 {
			t.Errorf("authentication saw %q, %v", data, err)
		}
		return api.Caller{}, &Denied{Status: http.StatusUnauthorized, Body: map[string]string{"message": "no"}}
	}
	w := do(router(deny, rt), "PUT", "/raw", body)
	if w.Code != http.StatusUnauthorized || strings.TrimSpace(w.Body.String()) != `{"message":"no"}` || body.n != 0 {
		t.Errorf("got %d %s after reading %d bytes", w.Code, w.Body, body.n)
	}
	w = do(router(anybody, rt), "PUT", "/raw", body)
	if w.Body.String() != "raw content" || w.Header().Get("Content-Type") != "application/octet-stream" {
		t.Errorf("got %q as %s", w.Body, w.Header().Get("Content-Type"))
	}
}

type countingReader struct {
	io.Reader
	n int
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += n
	return n, err
}

// Unless a signature covers the body, the body of an unknown sender is not read.
func TestBodyIsNotReadForStrangers(t *testing.T) {
	body := &countingReader{Reader: strings.NewReader(`{"text":"x"}`)}
	deny := func(*http.Request) (api.Caller, error) {
		return api.Caller{}, mimiport.Errorf("authenticate", mimiport.KindForbidden, "no")
	}
	if w := do(router(deny, echo(64)), "PUT", "/echo/AQID", body); w.Code != http.StatusForbidden || body.n != 0 {
		t.Errorf("got %d after reading %d bytes", w.Code, body.n)
	}
}

// A Content-Length beyond the limit is refused before anything else is checked.
func TestLimitComesFirst(t *testing.T) {
	auth := func(*http.Request) (api.Caller, error) {
		t.Error("authentication was called")
		return api.Caller{}, nil
	}
	r := httptest.NewRequest("PUT", "/echo/AQID", strings.NewReader(`{}`))
	r.ContentLength = 65
	w := httptest.NewRecorder()
	router(auth, echo(64)).ServeHTTP(w, r)
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Errorf("got %d", w.Code)
	}
}

func TestPending(t *testing.T) {
	rt := Route{Route: api.Route{Method: http.MethodGet, Path: "/x"}, Serve: func(context.Context, *Request) (any, error) {
		return Pending{RetryAfter: 1500 * time.Millisecond}, nil
	}}
	w := do(router(anybody, rt), "GET", "/x", nil)
	if w.Code != http.StatusAccepted || strings.TrimSpace(w.Body.String()) != `{"retry_after_ms":1500}` {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// The text of an internal fault goes only to the log.
func TestFaultsAreLoggedAndNotTold(t *testing.T) {
	for _, err := range []error{
		errors.New("secret path"),
		&mimiport.Error{Op: "load", Err: errors.New("secret path")},
		mimiport.Errorf("ask", mimiport.KindPeer, "secret path"),
	} {
		var log bytes.Buffer
		at := api.Route{Name: "fault", Method: http.MethodGet, Path: "/x"}
		rt := Route{Route: at, Serve: func(context.Context, *Request) (any, error) { return nil, err }}
		r := mux.NewRouter()
		Mount(r, []Route{rt}, anybody, NewBodies(1<<20), slog.New(slog.NewTextHandler(&log, nil)))
		w := do(r, "GET", "/x", nil)
		if w.Code < 500 || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("told %d %s", w.Code, w.Body)
		}
		if !strings.Contains(log.String(), "secret path") || !strings.Contains(log.String(), "route=fault") {
			t.Errorf("logged %q", &log)
		}
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewMetrics(reg); err == nil {
		t.Error("registered twice")
	}
	r := router(anybody, echo(64))
	r.Use(m.Middleware("client"))
	do(r, "PUT", "/echo/AQID", strings.NewReader(`{}`))
	do(r, "PUT", "/echo/AQID", strings.NewReader(`{`))
	do(r, "PUT", "/nowhere", nil)
	want := `
		# HELP mimiport_http_requests_total Requests answered, by API, route and HTTP status.
		# TYPE mimiport_http_requests_total counter
		mimiport_http_requests_total{api="client",code="200",route="echo"} 1
		mimiport_http_requests_total{api="client",code="400",route="echo"} 1
	`
	if err := testutil.CollectAndCompare(m.requests, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(m.seconds); n != 2 {
		t.Errorf("%d histograms", n)
	}
	if _, err := NewMetrics(nil); err != nil {
		t.Error(err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(`{"a":"\\\"1\\","b":[-1,2.5e3,9007199254740992,true]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		want := json.Unmarshal(data, new(any)) != nil || hasLongInteger(data) || !utf8.Valid(data)
		if refused := Unmarshal(data, new(any)) != nil; refused != want {
			t.Fatalf("%q: refused %v", data, refused)
		}
	})
}

// hasLongInteger finds the integers that Unmarshal refuses in a slow and simple way.
func hasLongInteger(data []byte) bool {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	for {
		token, err := dec.Token()
		if err != nil {
			return false
		}
		if n, ok := token.(json.Number); ok {
			i, ok := new(big.Int).SetString(n.String(), 10)
			if ok && i.CmpAbs(big.NewInt(maxInteger)) > 0 {
				return true
			}
		}
	}
}
