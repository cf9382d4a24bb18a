package harness

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// Device is a user's device that sends direct requests to the Delivery Services of other homeservers.
type Device struct {
	*User
	Scheme string // signature scheme of its MLS signature key
	Sign   func(content []byte) []byte
}

// Request makes a signed request for a route of a server's Delivery Service, such as "/groups". body is JSON, or empty.
func (d *Device) Request(ctx context.Context, at *Server, method, route string, body []byte) (*http.Request, error) {
	r, err := (&User{Server: at}).Request(ctx, method, clientapi.PathPrefix+"/ds/"+at.Name+route, body)
	if err != nil {
		return nil, err
	}
	q := &mimiport.DirectRequest{
		Service: at.Name, Method: method, URI: r.URL.RequestURI(), BodyHash: sha256.Sum256(body),
		UserID: d.ID, DeviceID: d.DeviceID, Time: uint64(time.Now().UnixMilli()),
	}
	if _, err := rand.Read(q.Nonce[:]); err != nil {
		return nil, err
	}
	content, err := q.SignContent()
	if err != nil {
		return nil, err
	}
	q.Signature = d.Sign(content)
	r.Header.Set("Authorization", api.DirectHeader(q, d.Scheme))
	return r, nil
}

// Ask sends a signed request to a server's Delivery Service and decodes the answer into out, unless out is nil. It
// returns an *Error for an answer other than 200.
func (d *Device) Ask(ctx context.Context, at *Server, method, route string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	r, err := d.Request(ctx, at, method, route, body)
	if err != nil {
		return err
	}
	return exchange(r, out)
}
