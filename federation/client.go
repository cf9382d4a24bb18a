package federation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/matrix-org/gomatrixserverlib/fclient"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/matrix-org/dendrite/contrib/mimi/internal/trace"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// The largest answers of another server that this server reads, in bytes: a status of a migration, a lineage or
// devices; any other JSON; a ratchet tree; and a refusal.
const (
	maxSmallAnswer = 2 << 20
	maxAnswer      = 16 << 20
	maxRawAnswer   = 64 << 20
	maxRefusal     = 64 << 10
)

// A request has answerTime for the connection and the answer, and the time that a link of 4 Mbit/s needs for its bytes.
const (
	answerTime     = 15 * time.Second
	bytesPerSecond = 512 << 10
)

// carryTime returns the time that a link may need for some bytes.
func carryTime(bytes int64) time.Duration { return time.Duration(bytes) * time.Second / bytesPerSecond }

// ErrTooLong is in the chain of the error for an answer that is larger than its limit.
var ErrTooLong = errors.New("the answer is longer than")

// Doer sends requests to matrix:// URLs. *fclient.Client implements it.
type Doer interface {
	DoHTTPRequest(ctx context.Context, r *http.Request) (*http.Response, error)
}

// Client calls the routes of other servers. For a refusal it returns the other server's *mimiport.Error. For a failed
// request or a malformed answer it returns a KindPeer error.
type Client struct {
	identity func(server string) (*fclient.SigningIdentity, error)
	http     Doer
	now      func() time.Time
}

// NewClient makes a client. It signs a request with the identity of the local server in whose name it sends the
// request.
func NewClient(
	identity func(server string) (*fclient.SigningIdentity, error), http Doer, now func() time.Time,
) *Client {
	return &Client{identity, http, now}
}

// request is one request from a local server to another.
type request struct {
	from, to string
	op       string
	method   string
	uri      string
	content  any           // JSON; nil for none
	raw      []byte        // a body whose hash is in the URI; nil for none
	limit    int64         // largest size of the answer, in bytes
	work     time.Duration // time that the other server has in addition to answerTime
}

// timeout grows with the request: it allows for the sent bytes and for the largest answer.
func (q *request) timeout(sent int64) time.Duration {
	return answerTime + q.work + carryTime(sent+q.limit)
}

var pathVariable = regexp.MustCompile(`\{[^}]*\}`)

// to makes a request to a route. key replaces the route's path variable.
func to(rt api.Route, from, server, key string, query url.Values) request {
	uri := PathPrefix + pathVariable.ReplaceAllLiteralString(rt.Path, key)
	if len(query) > 0 {
		uri += "?" + query.Encode()
	}
	return request{from: from, to: server, op: rt.Name, method: rt.Method, uri: uri, limit: maxAnswer}
}

// toSmall makes a request to a route with a small answer.
func toSmall(rt api.Route, from, server, key string, query url.Values) request {
	q := to(rt, from, server, key, query)
	q.limit = maxSmallAnswer
	return q
}

// do sends the request and returns the body of a 200 or 202 answer. It returns the status of a refusal too.
func (c *Client) do(ctx context.Context, q request) (status int, body []byte, err error) {
	hr, err := c.sign(q)
	if err != nil {
		return 0, nil, err
	}
	ctx, end := trace.Start(ctx, "mimiport ask "+q.op, trace.Tag{Key: "server", Value: q.to})
	defer func() { end(err) }()
	trace.Inject(ctx, hr.Header)
	ctx, cancel := context.WithTimeout(ctx, q.timeout(hr.ContentLength))
	defer cancel()
	resp, err := c.http.DoHTTPRequest(ctx, hr)
	var refused *mimiport.Error
	if errors.As(err, &refused) { // this server's own transport does not dial that name
		return 0, nil, refused
	}
	if err != nil {
		return 0, nil, q.failed(err)
	}
	defer resp.Body.Close()
	accepted := resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusAccepted
	if !accepted {
		q.limit = maxRefusal
	}
	body, err = io.ReadAll(io.LimitReader(resp.Body, q.limit+1))
	if err == nil && int64(len(body)) > q.limit {
		err = fmt.Errorf("%w %d bytes", ErrTooLong, q.limit)
	}
	if err != nil {
		return 0, nil, q.failed(err)
	}
	if !accepted {
		return resp.StatusCode, nil, edge.ParseError(q.op, resp.StatusCode, resp.Header, body)
	}
	return resp.StatusCode, body, nil
}

// failed makes the error for a request without a well-formed answer.
func (q *request) failed(err error) error {
	return mimiport.Errorf(q.op, mimiport.KindPeer, "%s: %w", q.to, mimiport.Heard(err))
}

func (c *Client) sign(q request) (*http.Request, error) {
	id, err := c.identity(q.from)
	if err != nil {
		return nil, err
	}
	fr := fclient.NewFederationRequest(q.method, id.ServerName, spec.ServerName(q.to), q.uri)
	if q.content != nil {
		if err := fr.SetContent(q.content); err != nil {
			return nil, err
		}
		if err := requireFieldNames(fr.Content()); err != nil {
			return nil, err
		}
	}
	if err := fr.Sign(id.ServerName, id.KeyID, id.PrivateKey); err != nil {
		return nil, err
	}
	hr, err := fr.HTTPRequest()
	if err != nil {
		return nil, err
	}
	if q.raw != nil {
		hr.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(q.raw)), nil }
		hr.Body, _ = hr.GetBody()
		hr.ContentLength = int64(len(q.raw))
		hr.Header.Set("Content-Type", "application/octet-stream")
	}
	return hr, nil
}

// ask sends the request and decodes its answer.
func ask[A any](ctx context.Context, c *Client, q request) (*A, error) {
	status, body, err := c.do(ctx, q)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, q.failed(fmt.Errorf("answered %d", status))
	}
	return decodeAnswer[A](q, body)
}

func decodeAnswer[A any](q request, body []byte) (*A, error) {
	a := new(A)
	if err := edge.Unmarshal(body, a); err != nil {
		return nil, q.failed(err)
	}
	if st, ok := any(a).(*api.MigrationStatus); ok {
		clipStatus(st)
	}
	return a, nil
}

// clipStatus clips the texts of a status, because not all are checked before they are shown and logged.
func clipStatus(st *api.MigrationStatus) {
	for _, text := range []*string{
		&st.MigrationID, &st.Role, &st.State, &st.RoomID, &st.Source, &st.Target, &st.User, &st.Reason,
	} {
		*text = mimiport.Clip(*text)
	}
}

// PutContent sends the content to the target and returns the target's vote. The vote is nil while the target still
// works on the content.
func (c *Client) PutContent(
	ctx context.Context, from, server string, up *api.ContentUpload,
) (*api.SignedRequest, error) {
	q := toSmall(api.PutContent, from, server, up.ID.String(), contentQuery(up))
	q.raw, q.work = up.Data, carryTime(int64(len(up.Data))) // the target checks the group before it votes
	status, body, err := c.do(ctx, q)
	if err != nil || status == http.StatusAccepted {
		return nil, err
	}
	return decodeAnswer[api.SignedRequest](q, body)
}

// PutConfirmation sends the source's decision to the target.
func (c *Client) PutConfirmation(
	ctx context.Context, from, server string, id mimiport.MigrationID, m *api.SignedRequest,
) error {
	q := toSmall(api.ConfirmMigration, from, server, id.String(), nil)
	q.content = m
	_, err := ask[api.MigrationStatus](ctx, c, q)
	return err
}

// PutAbort sends the source's signed abort to the target.
func (c *Client) PutAbort(
	ctx context.Context, from, server string, id mimiport.MigrationID, m *api.SignedRequest,
) error {
	q := toSmall(api.PutAbort, from, server, id.String(), nil)
	q.content = m
	_, err := ask[struct{}](ctx, c, q)
	return err
}

// PutLineage shows a group's lineage to another server.
func (c *Client) PutLineage(ctx context.Context, from, server string, groupID []byte, req *api.LineageRequest) error {
	q := toSmall(api.ShowLineage, from, server, mimiport.IDText(groupID), nil)
	q.content = req
	_, err := ask[api.HostResponse](ctx, c, q)
	return err
}

// AskStatus asks another server for the status of a migration.
func (c *Client) AskStatus(
	ctx context.Context, from, server string, id mimiport.MigrationID,
) (*api.MigrationStatus, error) {
	return ask[api.MigrationStatus](ctx, c, toSmall(api.GetMigration, from, server, id.String(), nil))
}

// AskIntake asks a target what it would take of a room's groups. servers are the homeservers of users who could move
// them, at most api.MaxIntakeServers.
func (c *Client) AskIntake(ctx context.Context, from, server, roomID string, servers []string) (*api.Intake, error) {
	query := url.Values{"room_id": {roomID}, "server": servers}
	return ask[api.Intake](ctx, c, toSmall(api.GetIntake, from, server, "", query))
}

// API returns the Delivery Service of another server, for users of the local server from.
func (c *Client) API(from, server string) api.API { return &remote{c, from, server} }

func uintParam(v uint64) []string { return []string{strconv.FormatUint(v, 10)} }
