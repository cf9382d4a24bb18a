package clientapi

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/mux"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	"github.com/matrix-org/dendrite/contrib/mimi/storage"
)

// Direct authenticates devices of other homeservers by requests that they sign with their MLS keys (profile, section
// 7).
type Direct struct {
	IsLocal func(server string) bool
	// Key returns a key that a device of another server publishes now, or published at most a minute ago. This server
	// asks for it under its name from. Key returns a KindBadSignature error when the device does not publish the key.
	Key    func(ctx context.Context, from string, of api.DirectKey) ([]byte, error)
	Nonces storage.Nonces
	Rates  *edge.Rates
	Now    func() time.Time
}

// directSkew is the largest difference between the time of a direct request and the server's time.
const directSkew = storage.NonceLife / 2

// The names of rules in errors.
const (
	ruleTime  = "time"
	ruleNonce = "nonce"
	ruleHome  = "homeserver"
)

const opDirect = "authenticate direct request"

// Authenticate is an edge.Authenticate. It does not read the body. The signature covers the hash of the body, which the
// edge checks later.
func (d *Direct) Authenticate(r *http.Request) (api.Caller, error) {
	q, key, err := api.ParseDirectHeader(r.Header)
	if err != nil {
		return api.Caller{}, err
	}
	q.Method, q.URI = r.Method, r.RequestURI
	if q.Service, err = url.PathUnescape(mux.Vars(r)["serverName"]); err != nil {
		return api.Caller{}, mimiport.Errorf(opDirect, mimiport.KindBadMessage, "serverName: %w", err)
	}
	server, err := mimiport.ParseDevice(q.UserID, q.DeviceID)
	if err != nil {
		return api.Caller{}, mimiport.Errorf(opDirect, mimiport.KindBadMessage, "%w", err)
	}
	caller := api.Caller{UserID: q.UserID, Server: server, DeviceID: q.DeviceID, To: q.Service}
	if err := d.requirePlace(q.Service, caller.Server); err != nil {
		return api.Caller{}, err
	}
	if err := requireTime(q.Time, d.Now()); err != nil {
		return api.Caller{}, err
	}
	if err := d.requireSignature(r.Context(), q, key); err != nil {
		return api.Caller{}, err
	}
	now := d.Now() // another homeserver may have taken its time, until the nonce was forgotten
	if err := requireTime(q.Time, now); err != nil {
		return api.Caller{}, err
	}
	if err := d.Rates.TakeDirect(caller); err != nil {
		return api.Caller{}, err
	}
	edge.ExpectBody(r, q.BodyHash)
	return caller, d.useNonce(r.Context(), q, now)
}

// requirePlace fails unless the request is from a user of another server for the Delivery Service of this server.
func (d *Direct) requirePlace(service, home string) error {
	switch {
	case !d.IsLocal(service):
		return mimiport.Errorf(opDirect, mimiport.KindForbidden, "the Delivery Service of %s is not on this server", service)
	case d.IsLocal(home):
		return mimiport.Errorf(opDirect, mimiport.KindForbidden, "users of %s must use an access token", home)
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
	if mimiport.KindOf(err) == mimiport.KindPeer { // the rule tells the client that its homeserver failed, not this server
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

// useNonce fails for a request whose nonce was used before.
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
