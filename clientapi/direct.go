package clientapi

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/mux"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Direct knows devices of other homeservers by requests that they sign with their MLS keys (profile, section 7).
type Direct struct {
	IsLocal func(server string) bool
	// Key is the key of that name which a device of another server publishes now, or did at most a minute ago. This
	// server asks as its name from. A device without the key is KindBadSignature.
	Key    func(ctx context.Context, from string, of api.DirectKey) ([]byte, error)
	Nonces storage.Nonces
	Rates  *edge.Rates
	Now    func() time.Time
}

// directSkew is how far the time of a direct request may be from the server's, either way.
const directSkew = storage.NonceLife / 2

// The rules that a refusal names.
const (
	ruleTime  = "time"
	ruleNonce = "nonce"
	ruleHome  = "homeserver"
)

const opDirect = "authenticate direct request"

// Authenticate is an edge.Authenticate. The sender is known before the body is read, which must have the hash that was
// signed.
func (d *Direct) Authenticate(r *http.Request) (api.Caller, error) {
	q, key, err := api.ParseDirectHeader(r.Header)
	if err != nil {
		return api.Caller{}, err
	}
	q.Method, q.URI = r.Method, r.RequestURI
	if q.Service, err = url.PathUnescape(mux.Vars(r)["serverName"]); err != nil {
		return api.Caller{}, mimiport.Errorf(opDirect, mimiport.KindBadMessage, "serverName: %w", err)
	}
	id, err := spec.NewUserID(q.UserID, true)
	if err != nil {
		return api.Caller{}, mimiport.Errorf(opDirect, mimiport.KindBadMessage, "user: %w", err)
	}
	caller := api.Caller{UserID: q.UserID, Server: string(id.Domain()), DeviceID: q.DeviceID}
	if err := d.requirePlace(q.Service, caller.Server); err != nil {
		return api.Caller{}, err
	}
	now := d.Now()
	if err := requireTime(q.Time, now); err != nil {
		return api.Caller{}, err
	}
	if err := d.requireSignature(r.Context(), q, key); err != nil {
		return api.Caller{}, err
	}
	if err := d.Rates.TakeDirect(caller); err != nil {
		return api.Caller{}, err
	}
	edge.ExpectBody(r, q.BodyHash)
	return caller, d.useNonce(r.Context(), q, now)
}

// requirePlace fails unless a user of another server asks the Delivery Service of this one.
func (d *Direct) requirePlace(service, home string) error {
	switch {
	case !d.IsLocal(service):
		return mimiport.Errorf(opDirect, mimiport.KindForbidden, "ask the homeserver %s for its Delivery Service", service)
	case d.IsLocal(home):
		return mimiport.Errorf(opDirect, mimiport.KindForbidden, "users of %s ask with an access token", home)
	}
	return nil
}

func requireTime(ms uint64, now time.Time) error {
	if off := now.Sub(time.UnixMilli(int64(ms))); off.Abs() <= directSkew {
		return nil
	}
	return &mimiport.Error{
		Op: opDirect, Kind: mimiport.KindBadSignature, Info: mimiport.Info{Rule: ruleTime, Now: now},
		Err: errors.New("the request was not signed within five minutes of this server's time"),
	}
}

func (d *Direct) requireSignature(ctx context.Context, q *mimiport.DirectRequest, key api.DirectKey) error {
	public, err := d.Key(ctx, q.Service, key)
	if mimiport.KindOf(err) == mimiport.KindPeer { // which is not the Delivery Service that the client looks for
		return &mimiport.Error{Op: opDirect, Kind: mimiport.KindPeer, Info: mimiport.Info{Rule: ruleHome}, Err: err}
	}
	if err != nil {
		return err
	}
	content, err := q.SignContent()
	if err != nil {
		return mimiport.Errorf(opDirect, mimiport.KindBadMessage, "%w", err)
	}
	return mls.VerifySignature(key.Scheme, public, content, q.Signature)
}

// useNonce fails for a request that was sent before.
func (d *Direct) useNonce(ctx context.Context, q *mimiport.DirectRequest, now time.Time) error {
	err := d.Nonces.UseNonce(ctx, &storage.Nonce{UserID: q.UserID, DeviceID: q.DeviceID, Nonce: q.Nonce, UsedAt: now})
	limit, full := errors.AsType[*storage.LimitError](err)
	switch {
	case errors.Is(err, storage.ErrConflict):
		return &mimiport.Error{
			Op: opDirect, Kind: mimiport.KindBadSignature, Info: mimiport.Info{Rule: ruleNonce},
			Err: errors.New("the nonce was used before"),
		}
	case full:
		return &mimiport.Error{
			Op: opDirect, Kind: mimiport.KindQuota, Err: errors.New("the device has sent too many requests"),
			Info: mimiport.Info{Rule: limit.Quota, RetryAfter: time.Minute},
		}
	}
	return err
}
