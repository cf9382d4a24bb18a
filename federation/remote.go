package federation

import (
	"context"
	"encoding/base64"
	"net/url"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/edge"
)

// remote carries a user's calls to another server.
type remote struct {
	client       *Client
	from, server string
}

// to addresses a route on behalf of the caller.
func (a *remote) to(rt edge.Route, c delivery.Caller, key string, query url.Values) request {
	if query == nil {
		query = url.Values{}
	}
	if c.UserID != "" {
		query.Set(userParam, c.UserID)
	}
	return to(rt, a.from, a.server, key, query)
}

// send is ask with a JSON body.
func send[A any](ctx context.Context, a *remote, q request, content any) (*A, error) {
	q.content = content
	return ask[A](ctx, a.client, q)
}

func groupKey(id []byte) string { return base64.RawURLEncoding.EncodeToString(id) }

func (a *remote) ReserveGroup(ctx context.Context, c delivery.Caller, req *delivery.ReserveGroupRequest) (*delivery.ReserveGroupResponse, error) {
	return send[delivery.ReserveGroupResponse](ctx, a, a.to(reserveGroup, c, "", nil), req)
}

func (a *remote) BindGroup(ctx context.Context, c delivery.Caller, id []byte, req *delivery.BindGroupRequest) (*delivery.GroupResponse, error) {
	return send[delivery.GroupResponse](ctx, a, a.to(bindGroup, c, groupKey(id), nil), req)
}

func (a *remote) Group(ctx context.Context, c delivery.Caller, id []byte) (*delivery.GroupResponse, error) {
	return ask[delivery.GroupResponse](ctx, a.client, a.to(getGroup, c, groupKey(id), nil))
}

func (a *remote) Host(ctx context.Context, c delivery.Caller, id []byte) (*delivery.HostResponse, error) {
	return ask[delivery.HostResponse](ctx, a.client, a.to(getHost, c, groupKey(id), nil))
}

func (a *remote) ShowLineage(ctx context.Context, c delivery.Caller, id []byte, req *delivery.LineageRequest) (*delivery.HostResponse, error) {
	return send[delivery.HostResponse](ctx, a, a.to(showLineage, c, groupKey(id), nil), req)
}

func (a *remote) RatchetTree(ctx context.Context, c delivery.Caller, id []byte, epoch uint64) ([]byte, error) {
	q := a.to(getTree, c, groupKey(id), url.Values{"epoch": uintParam(epoch)})
	q.limit = maxRawAnswer
	_, tree, err := a.client.do(ctx, q)
	return tree, err
}

func (a *remote) Submit(ctx context.Context, c delivery.Caller, id []byte, req *delivery.SubmitRequest) (*delivery.SubmitResponse, error) {
	return send[delivery.SubmitResponse](ctx, a, a.to(submit, c, groupKey(id), nil), req)
}

func (a *remote) Messages(ctx context.Context, c delivery.Caller, id []byte, q delivery.MessagesQuery) (*delivery.MessagesResponse, error) {
	query := url.Values{"from": uintParam(q.From), "limit": uintParam(uint64(max(q.Limit, 0)))}
	if q.Term != nil {
		query["term"] = uintParam(*q.Term)
	}
	return ask[delivery.MessagesResponse](ctx, a.client, a.to(getMessages, c, groupKey(id), query))
}

func (a *remote) RequestMigration(ctx context.Context, c delivery.Caller, req *delivery.MigrationRequestRequest) (*delivery.MigrationOffer, error) {
	return send[delivery.MigrationOffer](ctx, a, a.to(requestMigration, c, "", nil), req)
}

func (a *remote) InitMigration(ctx context.Context, c delivery.Caller, id mimiport.MigrationID, req *delivery.MigrationInitRequest) (*delivery.MigrationStatus, error) {
	return send[delivery.MigrationStatus](ctx, a, a.to(initMigration, c, id.String(), nil), req)
}

func (a *remote) Migration(ctx context.Context, c delivery.Caller, id mimiport.MigrationID) (*delivery.MigrationStatus, error) {
	return ask[delivery.MigrationStatus](ctx, a.client, a.to(getMigration, c, id.String(), nil))
}

func (a *remote) AbortMigration(ctx context.Context, c delivery.Caller, id mimiport.MigrationID) (*delivery.MigrationStatus, error) {
	return ask[delivery.MigrationStatus](ctx, a.client, a.to(abortMigration, c, id.String(), nil))
}

func (a *remote) ConfirmMigration(ctx context.Context, c delivery.Caller, id mimiport.MigrationID, req *delivery.SignedRequest) (*delivery.MigrationStatus, error) {
	return send[delivery.MigrationStatus](ctx, a, a.to(confirmMigration, c, id.String(), nil), req)
}
