package federation_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
)

// mute is a server that never answers.
type mute struct{}

func (mute) DoHTTPRequest(ctx context.Context, _ *http.Request) (*http.Response, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A request to a silent server ends by itself with a KindPeer error. A small request ends sooner than a large one.
func TestTimeouts(t *testing.T) {
	const small = 20 * time.Second
	content := func(size int) func(context.Context, *federation.Client) error {
		return func(ctx context.Context, c *federation.Client) error {
			_, err := c.PutContent(ctx, source, target, &api.ContentUpload{ID: id, Data: make([]byte, size)})
			return err
		}
	}
	for _, test := range []struct {
		name        string
		call        func(ctx context.Context, c *federation.Client) error
		least, most time.Duration
	}{
		{"status", func(ctx context.Context, c *federation.Client) error {
			_, err := c.AskStatus(ctx, source, target, id)
			return err
		}, 10 * time.Second, small},
		{"fan-out", func(ctx context.Context, c *federation.Client) error {
			_, err := c.ToDevice(ctx, source, target, oneEvent(map[string][]string{"@a:" + target: {"D"}}))
			return err
		}, 10 * time.Second, small},
		{"lineage", func(ctx context.Context, c *federation.Client) error {
			return c.PutLineage(ctx, source, target, group, &api.LineageRequest{})
		}, 10 * time.Second, small},
		{"small content", content(1 << 10), 10 * time.Second, small},
		{"large content", content(64 << 20), 4 * time.Minute, 5 * time.Minute},
		{"tree", func(ctx context.Context, c *federation.Client) error {
			_, err := c.API(source, target).RatchetTree(ctx, alice, group, 7)
			return err
		}, 2 * time.Minute, 3 * time.Minute},
		{"init", func(ctx context.Context, c *federation.Client) error {
			_, err := c.API(source, target).InitMigration(ctx, alice, id, &api.MigrationInitRequest{})
			return err
		}, delivery.DefaultLimits().Wait + 10*time.Second, 2 * time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			if err := test.call(t.Context(), client(mute{})); mimiport.KindOf(err) != mimiport.KindPeer {
				t.Errorf("%s: got %v", test.name, err)
			}
			if took := time.Since(begin); took < test.least || took > test.most {
				t.Errorf("%s: gave up after %v, want %v to %v", test.name, took, test.least, test.most)
			}
		})
	}
}
