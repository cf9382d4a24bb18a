package edge

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// count answers with the number of bytes in the body.
func count(limit int64) Route {
	at := api.Route{Name: "count", Method: http.MethodPut, Path: "/count", MaxBody: limit}
	return Route{Route: at, Serve: func(_ context.Context, r *Request) (any, error) {
		data, err := r.Body()
		return len(data), err
	}}
}

// line is the only connection to a server, in memory. Its deadlines use the time of a synctest bubble.
type line struct{ conns chan net.Conn }

func (l *line) Accept() (net.Conn, error) {
	conn, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (l *line) Close() error   { return nil }
func (l *line) Addr() net.Addr { return &net.TCPAddr{} }

// dial starts a server for one connection, and returns the client's end of it.
func dial(t *testing.T, h http.Handler) (*bufio.Reader, net.Conn) {
	theirs, ours := net.Pipe()
	l := &line{make(chan net.Conn, 1)}
	l.conns <- theirs
	closed := make(chan struct{})
	srv := &http.Server{Handler: h, ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			close(closed)
		}
	}}
	go srv.Serve(l) // nolint: errcheck // it ends with the line
	t.Cleanup(func() {
		ours.Close()
		<-closed
		close(l.conns)
	})
	return bufio.NewReader(ours), ours
}

// bare hides the optional methods of an http.ResponseWriter, as a wrapper without Unwrap does.
func bare(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
	})
}

// servers are a server with deadlines and one without.
var servers = map[string]func(http.Handler) http.Handler{
	"deadlines":    func(h http.Handler) http.Handler { return h },
	"no deadlines": bare,
}

// A sender that announces 64 MiB and sends nothing is refused after 30 s. The connection is closed.
func TestIdleUploadIsRefused(t *testing.T) {
	for name, wrap := range servers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in, conn := dial(t, wrap(routerWith(anybody, NewBodies(128<<20), count(64<<20))))
				begin := time.Now()
				fmt.Fprintf(conn, "PUT /count HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 64<<20)
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatal(err)
				}
				if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "5" || !resp.Close {
					t.Errorf("%d, %v", resp.StatusCode, resp.Header)
				}
				if took := time.Since(begin); took != patience {
					t.Errorf("after %v", took)
				}
			})
		})
	}
}

// A sender at the pace may take any time. A sender at half of the pace may not.
func TestPace(t *testing.T) {
	for name, wrap := range servers {
		for size, status := range map[int]int{pace: http.StatusOK, pace / 2: http.StatusTooManyRequests} {
			t.Run(fmt.Sprint(name, size), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const length = 200 * pace
					h := wrap(routerWith(anybody, NewBodies(4*length), count(length)))
					in, conn := dial(t, h)
					var sending sync.WaitGroup
					sending.Go(func() {
						fmt.Fprintf(conn, "PUT /count HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", length)
						for range length / size {
							if _, err := conn.Write(make([]byte, size)); err != nil {
								return
							}
							time.Sleep(time.Second) // of the bubble
						}
					})
					resp, err := http.ReadResponse(in, nil)
					if err != nil || resp.StatusCode != status {
						t.Errorf("%v, %v", resp, err)
					}
					conn.Close()
					sending.Wait()
				})
			})
		}
	}
}

// A sender that has sent all but the last byte at once has no more time for it than one that has sent nothing.
func TestSilenceIsNotEarned(t *testing.T) {
	for name, wrap := range servers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in, conn := dial(t, wrap(routerWith(anybody, NewBodies(32<<20), count(8<<20))))
				fmt.Fprintf(conn, "PUT /count HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 8<<20)
				if _, err := conn.Write(make([]byte, 8<<20-1)); err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				resp, err := http.ReadResponse(in, nil)
				if err != nil || resp.StatusCode != http.StatusTooManyRequests || time.Since(begin) != patience {
					t.Errorf("%v, %v, after %v", resp, err, time.Since(begin))
				}
			})
		})
	}
}

// The deadline is only for the body. The call may take longer.
func TestDeadlineEndsWithTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := count(64)
		rt.Serve = func(ctx context.Context, r *Request) (any, error) {
			if _, err := r.Body(); err != nil {
				return nil, err
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(10 * patience):
				return "done", nil
			}
		}
		in, conn := dial(t, router(anybody, rt))
		fmt.Fprint(conn, "PUT /count HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
		if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%v, %v", resp, err)
		}
	})
}

// An unread body delays the refusal no longer than patience, although the server reads a little of it first.
func TestRefusalDoesNotWaitForTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deny := func(*http.Request) (api.Caller, error) {
			return api.Caller{}, mimiport.Errorf("authenticate", mimiport.KindForbidden, "no")
		}
		in, conn := dial(t, router(deny, count(64)))
		begin := time.Now()
		fmt.Fprint(conn, "PUT /count HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n")
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != http.StatusForbidden || time.Since(begin) > patience {
			t.Errorf("%v, %v, after %v", resp, err, time.Since(begin))
		}
	})
}

// A body takes memory for at most twice the bytes that have arrived, for any Content-Length, and never for more than
// that length.
func TestMemoryGrowsWithWhatArrives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.IntRange(0, 1<<20).Draw(t, "length")
		stated := rapid.SampledFrom([]int64{-1, int64(length)}).Draw(t, "stated")
		bodies := NewBodies(8 << 20)
		r := httptest.NewRequest(http.MethodPut, "/", nil)
		arrived := 0
		r.Body = io.NopCloser(readerFunc(func(p []byte) (int, error) {
			if most := int64(max(2*arrived, firstPiece)); bodies.used > most || stated >= 0 && bodies.used > stated+1 {
				t.Fatalf("%d bytes are reserved for %d of %d", bodies.used, arrived, length)
			}
			n := min(len(p), length-arrived, rapid.IntRange(1, 1<<18).Draw(t, "piece"))
			if arrived += n; n == 0 {
				return 0, io.EOF
			}
			return n, nil
		}))
		r.ContentLength = stated
		b := bodies.open(httptest.NewRecorder(), r, 1<<20)
		data, err := b.bytes()
		if err != nil || len(data) != length {
			t.Fatalf("%d bytes of %d: %v", len(data), length, err)
		}
		b.release()
		if bodies.used != 0 || len(bodies.by) != 0 {
			t.Fatalf("%d bytes are kept, for %v", bodies.used, bodies.by)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// No owner has more than half of the memory, and all together have no more than the whole. Memory that is given back
// can be taken again.
func TestShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.Int64Range(0, 100).Draw(t, "total")
		bodies := NewBodies(total)
		held, all := map[string]int64{}, int64(0)
		for range rapid.IntRange(0, 50).Draw(t, "steps") {
			who := rapid.SampledFrom([]string{"@a:hs", "b.example", "address 192.0.2.1/32"}).Draw(t, "who")
			n := rapid.Int64Range(0, 60).Draw(t, "bytes")
			if rapid.Bool().Draw(t, "give") {
				n = min(n, held[who])
				bodies.give(who, n)
				n = -n
			} else if fits := held[who]+n <= total/2 && all+n <= total; bodies.take(who, n) != fits {
				t.Fatalf("%s has %d of %d: %d more fit: %v", who, held[who], all, n, fits)
			} else if !fits {
				n = 0
			}
			held[who] += n
			all += n
		}
		for who, n := range held {
			bodies.give(who, n)
		}
		if bodies.used != 0 || len(bodies.by) != 0 {
			t.Fatalf("left: %d, %v", bodies.used, bodies.by)
		}
	})
}

// A peer that holds its whole share is told to try again, and another peer is still served.
func TestOnePeerDoesNotUseUpAllMemory(t *testing.T) {
	bodies := NewBodies(64 << 10)
	rt := count(30_000)
	rt.Federation, rt.RawBody = true, true
	auth := func(r *http.Request) (api.Caller, error) { return api.Caller{Server: r.Header.Get("From")}, nil }
	h := routerWith(auth, bodies, rt)
	ask := func(from string, body io.Reader) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPut, "/count", body)
		r.Header.Set("From", from)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	held, sender := io.Pipe()
	holding := make(chan *httptest.ResponseRecorder)
	go func() {
		holding <- ask("a.example", io.MultiReader(strings.NewReader(strings.Repeat("x", 20_000)), held))
	}()
	if _, err := sender.Write([]byte("x")); err != nil { // returns when the server has read everything before
		t.Fatal(err)
	}
	body := func() io.Reader { return strings.NewReader(strings.Repeat("x", 30_000)) }
	for from, status := range map[string]int{"a.example": http.StatusTooManyRequests, "b.example": http.StatusOK} {
		if w := ask(from, body()); w.Code != status {
			t.Errorf("%s: %d %s", from, w.Code, w.Body)
		}
	}
	sender.Close()
	if w := <-holding; w.Code != http.StatusOK {
		t.Errorf("the first: %d %s", w.Code, w.Body)
	}
	if w := ask("a.example", body()); w.Code != http.StatusOK {
		t.Errorf("after the first: %d %s", w.Code, w.Body)
	}
}

// While a signature over a body is checked, the body and the memory of the check count for the sender's address. Then
// the body alone counts for the caller.
func TestSignedBodyCountsForItsAddressFirst(t *testing.T) {
	bodies := NewBodies(1 << 20)
	const length = 1000
	rt := count(length)
	rt.Federation = true
	const addr = "address 192.0.2.1/32" // httptest's
	rt.Serve = func(_ context.Context, r *Request) (any, error) {
		if n := bodies.by["hs"]; n < length || n != bodies.used {
			t.Errorf("while it is served: %v", bodies.by)
		}
		return struct{}{}, nil
	}
	auth := func(r *http.Request) (api.Caller, error) {
		caller, err := signed(r)
		if n := bodies.by[addr]; n < signedJSON*length || n != bodies.used {
			t.Errorf("while it is checked: %v", bodies.by)
		}
		return caller, err
	}
	h := routerWith(auth, bodies, rt)
	if w := do(h, "PUT", "/count", strings.NewReader(strings.Repeat("x", length))); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Every end of a request gives the memory for its body back.
func TestMemoryIsGivenBack(t *testing.T) {
	failing := count(100)
	failing.Path = "/panic"
	failing.Serve = func(_ context.Context, r *Request) (any, error) {
		_, err := r.Body()
		panic(err)
	}
	cut := readerFunc(func([]byte) (int, error) { return 0, io.ErrUnexpectedEOF })
	broken := io.MultiReader(strings.NewReader("x"), cut)
	bodies := NewBodies(1 << 20)
	for name, auth := range map[string]Authenticate{
		"token": anybody, "signature": signed,
		"nobody": func(r *http.Request) (api.Caller, error) {
			_, _ = signed(r)
			return api.Caller{}, &Denied{Status: http.StatusUnauthorized}
		},
	} {
		for uri, body := range map[string]io.Reader{
			"/count": strings.NewReader("x"), "/count?": strings.NewReader(strings.Repeat("x", 1<<10)), "/count?x": broken,
			"/panic": strings.NewReader("x"),
		} {
			func() {
				defer func() { _ = recover() }()
				do(routerWith(auth, bodies, count(100), failing), "PUT", uri, struct{ io.Reader }{body})
			}()
			if bodies.used != 0 || len(bodies.by) != 0 {
				t.Errorf("%s, %s: %d bytes are kept, for %v", name, uri, bodies.used, bodies.by)
			}
		}
	}
}

// A caller that Admit refuses gets the answer before the body is read.
func TestAdmissionComesBeforeTheBody(t *testing.T) {
	rt := count(64)
	rt.Admit = func(_ context.Context, r *Request) error {
		return mimiport.Errorf("find group", mimiport.KindUnknownGroup, "%s asks for none", r.Caller.UserID)
	}
	body := &countingReader{Reader: strings.NewReader("x")}
	if w := do(router(anybody, rt), "PUT", "/count", body); w.Code != http.StatusNotFound || body.n != 0 {
		t.Errorf("%d after %d bytes", w.Code, body.n)
	}
}

// TestExpectedBody: a signature over the hash of a body identifies the sender before the body is read. The body counts
// for the homeserver of the device that signed. A body with another hash is refused.
func TestExpectedBody(t *testing.T) {
	const text = `{"text":"x"}`
	signed := func(body string) Authenticate {
		return func(r *http.Request) (api.Caller, error) {
			ExpectBody(r, sha256.Sum256([]byte(body)))
			return api.Caller{UserID: "@c:other", Server: "other", DeviceID: "PHONE"}, nil
		}
	}
	sent := &countingReader{Reader: strings.NewReader(text)}
	rt := count(64)
	rt.Admit = func(context.Context, *Request) error {
		if sent.n != 0 {
			t.Errorf("%d bytes are read before the sender is admitted", sent.n)
		}
		return nil
	}
	send := func(rt Route, auth Authenticate, bodies *Bodies, body io.Reader) int {
		w := httptest.NewRecorder()
		rt.Handler(auth, bodies, slog.New(slog.DiscardHandler)).ServeHTTP(w, httptest.NewRequest("PUT", "/count", body))
		return w.Code
	}
	free := NewBodies(1 << 20)
	if code := send(rt, signed(text), free, sent); code != http.StatusOK || sent.n != len(text) {
		t.Errorf("got %d after %d bytes", code, sent.n)
	}
	if code := send(count(64), signed("another"), free, strings.NewReader(text)); code != http.StatusForbidden {
		t.Errorf("another body: %d", code)
	}
	if code := send(count(0), signed(text), free, nil); code != http.StatusForbidden {
		t.Errorf("no body, although one was signed: %d", code)
	}
	if code := send(count(0), signed(""), free, nil); code != http.StatusOK {
		t.Errorf("no body: %d", code)
	}
	full := NewBodies(1 << 20)
	if !full.take("other", full.Share()) {
		t.Fatal("the share cannot be taken")
	}
	if code := send(count(64), signed(text), full, strings.NewReader(text)); code != http.StatusTooManyRequests {
		t.Errorf("beyond the homeserver's share: %d", code)
	}
}

func TestAddress(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:80":             "address 192.0.2.7/32",
		"[::ffff:192.0.2.7]:80":    "address 192.0.2.7/32",
		"[2001:db8:1:2:3::4]:80":   "address 2001:db8:1:2::/64",
		"[fe80::1:2:3:4%eth0]:443": "address fe80::/64",
		"@":                        "address @",
	} {
		if got := address(remote); got != want {
			t.Errorf("%s is %s", remote, got)
		}
	}
}

// TestEmptyObjectIsNoBody: a route without a body takes an empty object for none, whatever length is stated, and
// refuses all else.
func TestEmptyObjectIsNoBody(t *testing.T) {
	served := 0
	at := api.Route{Name: "get", Method: http.MethodDelete, Path: "/none"}
	rt := Route{Route: at, Serve: func(context.Context, *Request) (any, error) { served++; return struct{}{}, nil }}
	h := rt.Handler(func(*http.Request) (api.Caller, error) { return api.Caller{UserID: "@alice:a.example"}, nil },
		NewBodies(1<<20), slog.New(slog.DiscardHandler))
	for body, want := range map[string]int{
		"": http.StatusOK, "{}": http.StatusOK, "[]": http.StatusBadRequest, "{": http.StatusBadRequest,
		`{"a":1}`: http.StatusRequestEntityTooLarge,
	} {
		for _, stated := range []int64{int64(len(body)), -1} {
			r := httptest.NewRequest(at.Method, at.Path, strings.NewReader(body))
			r.ContentLength = stated
			w := httptest.NewRecorder()
			before := served
			h.ServeHTTP(w, r)
			if w.Code != want || (served > before) != (want == http.StatusOK) {
				t.Errorf("%q, stated %d: %d, served %t", body, stated, w.Code, served > before)
			}
		}
	}
}
