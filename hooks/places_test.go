package hooks

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
)

// doer is a homeserver that a function answers for.
type doer func(ctx context.Context, r *http.Request) (*http.Response, error)

func (f doer) DoHTTPRequest(ctx context.Context, r *http.Request) (*http.Response, error) {
	return f(ctx, r)
}

// asker asks a homeserver for devices.
func asker(answer doer) *deviceKeys {
	identity := func(string) (*fclient.SigningIdentity, error) {
		return &fclient.SigningIdentity{
			ServerName: "t.example", KeyID: "ed25519:1", PrivateKey: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)),
		}, nil
	}
	client := federation.NewClient(identity, answer, time.Now)
	return newDeviceKeys(client, nil, func(string) bool { return false }, &silences{now: time.Now})
}

// TestLongAnswerOfOneUser: a user has too many devices for one answer. This does not make the homeserver count as
// unreachable. Questions about other users, alone or together with that user, get answers.
func TestLongAnswerOfOneUser(t *testing.T) {
	var asked [][]string
	d := asker(func(_ context.Context, r *http.Request) (*http.Response, error) {
		var query struct {
			Users map[string][]string `json:"device_keys"`
		}
		wantNone(t, json.NewDecoder(r.Body).Decode(&query))
		users := slices.Sorted(maps.Keys(query.Users))
		asked = append(asked, users)
		answer := []byte(`{}`)
		if slices.Contains(users, "@mallory:s.example") {
			answer = bytes.Repeat([]byte(" "), 3<<20)
		}
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(answer))}, nil
	})
	ask := func(users ...string) error {
		var leaves []delivery.LeafKey
		for _, u := range users {
			leaves = append(leaves, delivery.LeafKey{UserID: u, DeviceID: "D", Scheme: scheme, Key: "key"})
		}
		_, err := d.Look(t.Context(), "t.example", "s.example", leaves)
		return err
	}
	wantKind(t, ask("@alice:s.example", "@bob:s.example", "@mallory:s.example"), mimiport.KindPeer)
	alone := func(users []string) bool { return slices.Equal(users, []string{"@alice:s.example"}) }
	if !slices.ContainsFunc(asked, alone) {
		t.Errorf("asked only about %v together", asked)
	}
	wantNone(t, ask("@alice:s.example"))
}

// ending is a context whose deadline passes when a channel is closed.
type ending struct {
	context.Context
	done chan struct{}
}

func (e *ending) Done() <-chan struct{} { return e.done }

func (e *ending) Err() error {
	select {
	case <-e.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// TestHangingServerIsSilent: a homeserver that does not answer in time is not asked again for a minute, so it delays
// nobody twice.
func TestHangingServerIsSilent(t *testing.T) {
	asked := 0
	ctx := &ending{t.Context(), make(chan struct{})}
	d := asker(func(context.Context, *http.Request) (*http.Response, error) {
		asked++
		close(ctx.done)
		return nil, ctx.Err()
	})
	leaves := []delivery.LeafKey{{UserID: "@alice:s.example", DeviceID: "D", Scheme: scheme, Key: "key"}}
	for _, ctx := range []context.Context{ctx, t.Context()} {
		_, err := d.Look(ctx, "t.example", "s.example", leaves)
		wantKind(t, err, mimiport.KindPeer)
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

// TestPlaces: the current requests to one server are bounded, and take no place from another server.
func TestPlaces(t *testing.T) {
	p := newPlaces()
	var leave []func()
	for range placesEach {
		done, err := p.take(t.Context(), "s.example")
		wantNone(t, err)
		leave = append(leave, done)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.take(ended, "s.example"); !errors.Is(err, context.Canceled) {
		t.Errorf("one more: %v", err)
	}
	done, err := p.take(t.Context(), "t.example")
	wantNone(t, err)
	for _, leave := range append(leave, done) {
		leave()
	}
	done, err = p.take(t.Context(), "s.example")
	wantNone(t, err)
	done()
	if p.each.Len() != 0 {
		t.Errorf("%d servers are in memory", p.each.Len())
	}
}
