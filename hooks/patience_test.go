package hooks

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/gomatrixserverlib/spec"

	rsapi "github.com/matrix-org/dendrite/roomserver/api"
	"github.com/matrix-org/dendrite/roomserver/types"
)

// hungRooms is a room server whose database has vanished. It never answers, and ignores the context.
type hungRooms struct {
	rsapi.RoomserverInternalAPI
	never chan struct{}
}

func (h hungRooms) QueryRoomInfo(context.Context, spec.RoomID) (*types.RoomInfo, error) {
	<-h.never
	return nil, nil
}

// TestHungHomeserver: a question that the homeserver never answers ends with an error after a while.
func TestHungHomeserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never := make(chan struct{})
		r := newRooms(nil, patientRooms{hungRooms{never: never}}, nil, nil)
		begin := time.Now()
		if _, err := r.Room(t.Context(), "!room:a.example"); err == nil || !strings.Contains(err.Error(), "did not answer") {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(begin); waited != hostPatience {
			t.Errorf("waited %s", waited)
		}
		close(never)
	})
}

// TestWithin: within tells an answer, a refusal, a panic and the end of the caller's context apart.
func TestWithin(t *testing.T) {
	refusal := errors.New("refused")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx  context.Context
		ask  func(context.Context) (int, error)
		want func(int, error) bool
	}{
		"an answer": {t.Context(), func(context.Context) (int, error) { return 1, nil },
			func(n int, err error) bool { return n == 1 && err == nil }},
		"a refusal": {t.Context(), func(context.Context) (int, error) { return 0, refusal },
			func(_ int, err error) bool { return errors.Is(err, refusal) }},
		"a panic": {t.Context(), func(context.Context) (int, error) { panic("broken") },
			func(_ int, err error) bool { return err != nil && strings.Contains(err.Error(), "broken") }},
		"the end": {gone, func(ctx context.Context) (int, error) { <-ctx.Done(); <-t.Context().Done(); return 1, nil },
			func(_ int, err error) bool { return errors.Is(err, context.Canceled) }},
	} {
		if n, err := within(test.ctx, time.Hour, test.ask); !test.want(n, err) {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}
