package federation

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strconv"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/slots"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// maxEnvelope is the largest size of a MigrationContent without its group_state, in bytes.
const maxEnvelope = 64 << 10

// pollContent is the time after which the source asks again for the vote.
const pollContent = time.Second

// contentRoute receives a MigrationContent as a raw body. The signed URI has the SHA-256 of the body, so the request is
// authenticated before the body is read (profile, section 1).
func contentRoute(svc Service, maxGroupState int64) edge.Route {
	rt := edge.Route{Route: api.PutContent}
	rt.MaxBody = maxGroupState + maxEnvelope
	uploads := slots.New[mimiport.MigrationID](maxUploads)
	rt.Admit = func(ctx context.Context, r *edge.Request) error {
		up, err := parseContentURI(r)
		if err != nil {
			return err
		}
		_, err = svc.Migration(ctx, r.Caller, up.ID)
		return err
	}
	rt.Serve = func(ctx context.Context, r *edge.Request) (any, error) {
		up, err := parseContentURI(r)
		if err != nil {
			return nil, err
		}
		end, ok := uploads.Take(up.ID)
		if !ok {
			return edge.Pending{RetryAfter: pollContent}, nil
		}
		defer end()
		if up.Data, err = readContent(r, up.SHA256); err != nil {
			return nil, err
		}
		vote, err := svc.PutContent(ctx, r.Caller.Server, up)
		if err == nil && vote == nil {
			return edge.Pending{RetryAfter: pollContent}, nil
		}
		return vote, err
	}
	return rt
}

// maxUploads is the largest number of uploads of one migration at a time. One is enough, and a second one is for a
// first that hangs. Without the limit, the holder of an offer could fill this server's memory.
const maxUploads = 2

// contentQuery makes the query of a content request. parseContentURI reads it.
func contentQuery(c *api.ContentUpload) url.Values {
	return url.Values{
		"sha256":    {base64.RawURLEncoding.EncodeToString(c.SHA256[:])},
		"key_id":    {c.KeyID},
		"decide_by": {strconv.FormatInt(c.DecideBy.UnixMilli(), 10)},
	}
}

func parseContentURI(r *edge.Request) (*api.ContentUpload, error) {
	const op = "read content URI"
	id, err := edge.MigrationID(r)
	if err != nil {
		return nil, err
	}
	up := &api.ContentUpload{ID: id}
	digest, err := edge.Param(r, "sha256")
	if err != nil {
		return nil, err
	}
	sum, err := mimiport.ParseBase64URL(digest)
	if err != nil || len(sum) != len(up.SHA256) {
		return nil, mimiport.Errorf(op, mimiport.KindBadMessage, "sha256 is not 43 characters of base64url")
	}
	copy(up.SHA256[:], sum)
	if up.KeyID, err = edge.Param(r, "key_id"); err != nil {
		return nil, err
	}
	decideBy, err := edge.Uint(r, "decide_by")
	if err != nil {
		return nil, err
	}
	if up.KeyID == "" || decideBy == nil {
		return nil, mimiport.Errorf(op, mimiport.KindBadMessage, "key_id or decide_by is missing")
	}
	up.DecideBy = time.UnixMilli(int64(*decideBy))
	return up, nil
}

// readContent reads the body and checks its hash.
func readContent(r *edge.Request, want [sha256.Size]byte) ([]byte, error) {
	data, err := r.Body()
	if err == nil && sha256.Sum256(data) != want {
		err = mimiport.Errorf("read content", mimiport.KindBadMessage, "the body does not have the hash in the URI")
	}
	return data, err
}

func abortRoute(svc Service) edge.Route {
	rt := edge.Route{Route: api.PutAbort}
	rt.Serve = func(ctx context.Context, r *edge.Request) (any, error) {
		id, err := edge.MigrationID(r)
		if err != nil {
			return nil, err
		}
		m, err := edge.Decode[api.SignedRequest](r)
		if err != nil {
			return nil, err
		}
		return struct{}{}, svc.AbortFromSource(ctx, r.Caller.Server, id, m)
	}
	return rt
}
