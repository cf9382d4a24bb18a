package edge

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// as authenticates the caller that the header names. It refuses a request without the header.
func as(r *http.Request) (api.Caller, error) {
	user := r.Header.Get("User")
	if user == "" {
		return api.Caller{}, &Denied{Status: http.StatusUnauthorized}
	}
	_, server, _ := strings.Cut(user, ":")
	return api.Caller{UserID: user, Server: server}, nil
}

func asked(t *testing.T, auth Authenticate, user string) error {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("User", user)
	_, err = auth(r)
	return err
}

// TestRates: a sender of too many requests is told when to try again, and is served then. Other senders are not
// affected.
func TestRates(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	rates := NewRates(2, 3, func() time.Time { return now })
	const a, b, elsewhere = "@a:hs", "@b:hs", "@c:other"
	for name, c := range map[string]struct {
		auth   Authenticate
		burst  int
		sender string
		shares string // has the same budget
		other  string // has another budget
		wait   time.Duration
	}{
		"users":   {rates.Users(as), 20, a, a, b, time.Second / 2},
		"servers": {rates.Servers(as), 30, a, b, elsewhere, time.Second / 3},
	} {
		for range c.burst {
			if err := asked(t, c.auth, c.sender); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		for range 3 { // refused requests are not counted
			err := asked(t, c.auth, c.shares)
			e, _ := errors.AsType[*mimiport.Error](err)
			if e == nil || e.Kind != mimiport.KindQuota || e.Info.Rule != "requests_per_second" ||
				e.Info.RetryAfter < c.wait || e.Info.RetryAfter > c.wait+2*time.Millisecond {
				t.Fatalf("%s: one more: %+v", name, err)
			}
		}
		if err := asked(t, c.auth, c.other); err != nil {
			t.Errorf("%s: another: %v", name, err)
		}
		now = now.Add(c.wait + 2*time.Millisecond)
		if err := asked(t, c.auth, c.shares); err != nil {
			t.Errorf("%s: later: %v", name, err)
		}
	}
}

// TestRatesOff: a rate of 0 sets no limit.
func TestRatesOff(t *testing.T) {
	auth := NewRates(0, 0, time.Now).Users(as)
	for range 1000 {
		if err := asked(t, auth, "@a:hs"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRatesCountKnownSenders: an unknown sender uses no budget, and the memory for senders is bounded.
func TestRatesCountKnownSenders(t *testing.T) {
	rates := NewRates(1, 1, time.Now)
	auth := rates.Users(as)
	for range 100 {
		if err := asked(t, auth, ""); err == nil {
			t.Fatal("an unknown sender is accepted")
		}
	}
	if n := rates.users.senders.Len(); n != 0 {
		t.Errorf("%d unknown senders are remembered", n)
	}
	for n := range 2 * maxSenders {
		if err := asked(t, auth, fmt.Sprintf("@%d:hs", n)); err != nil {
			t.Fatal(err)
		}
	}
	if n := rates.users.senders.Len(); n != maxSenders {
		t.Errorf("%d senders are remembered", n)
	}
}

// TestRateRefusedBeforeWork: the answer to a request beyond the rate is 429 with a time, and the route is not called.
func TestRateRefusedBeforeWork(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	h := router(NewRates(1, 1, func() time.Time { return now }).Users(anybody), echo(100))
	for n := range burstSeconds + 1 {
		w := do(h, http.MethodPut, "/echo/AAAA", strings.NewReader(`{"text":"x"}`))
		want := http.StatusOK
		if n == burstSeconds {
			want = http.StatusTooManyRequests
		}
		if w.Code != want || (w.Header().Get("Retry-After") != "") != (want != http.StatusOK) {
			t.Fatalf("request %d: %d %s", n, w.Code, w.Body)
		}
	}
}
