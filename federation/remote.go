package federation

import (
	"context"
	"encoding/json"
	"net/url"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
)

// remote is an api.API that sends a user's calls to another server.
type remote struct {
	client       *Client
	from, server string
}

// to makes a request to a route in the name of the caller.
func (a *remote) to(rt api.Route, c api.Caller, key string, query url.Values) request {
	if query == nil {
		query = url.Values{}
	}
	if c.UserID != "" {
		query.Set(userParam, c.UserID)
	}
	return to(rt, a.from, a.server, key, query)
}

// The time that a Delivery Service has for its work before it answers: a source waits for the outcome of a migration,
// and a host asks homeservers for the devices of new leaves.
const (
	initWork    = 20*time.Second + devicesWork
	devicesWork = 20 * time.Second
)

// send is ask for a request with a JSON body.
func send[A any](ctx context.Context, a *remote, q request, content any) (*A, error) {
	q.content = content
	return ask[A](ctx, a.client, q)
}

func (a *remote) ReserveGroup(
	ctx context.Context, c api.Caller, req *api.ReserveGroupRequest,
) (*api.ReserveGroupResponse, error) {
	return send[api.ReserveGroupResponse](ctx, a, a.to(api.ReserveGroup, c, "", nil), req)
}

func (a *remote) RequireReserver(context.Context, api.Caller, []byte) error { return nil }

func (a *remote) BindGroup(
	ctx context.Context, c api.Caller, id []byte, req *api.BindGroupRequest,
) (*api.GroupResponse, error) {
	q := a.to(api.BindGroup, c, mimiport.IDText(id), nil)
	q.work = devicesWork
	return send[api.GroupResponse](ctx, a, q, req)
}

func (a *remote) Group(ctx context.Context, c api.Caller, id []byte) (*api.GroupResponse, error) {
	return ask[api.GroupResponse](ctx, a.client, a.to(api.GetGroup, c, mimiport.IDText(id), nil))
}

func (a *remote) CloseGroup(ctx context.Context, c api.Caller, id []byte) (*api.GroupResponse, error) {
	return ask[api.GroupResponse](ctx, a.client, a.to(api.CloseGroup, c, mimiport.IDText(id), nil))
}

func (a *remote) Report(
	ctx context.Context, c api.Caller, id []byte, req *api.ReportRequest,
) (*api.ReportResponse, error) {
	return send[api.ReportResponse](ctx, a, a.to(api.ReportCommit, c, mimiport.IDText(id), nil), req)
}

func (a *remote) Host(ctx context.Context, c api.Caller, id []byte) (*api.HostResponse, error) {
	return ask[api.HostResponse](ctx, a.client, a.to(api.GetHost, c, mimiport.IDText(id), nil))
}

func (a *remote) ShowLineage(
	ctx context.Context, c api.Caller, id []byte, req *api.LineageRequest,
) (*api.HostResponse, error) {
	return send[api.HostResponse](ctx, a, a.to(api.ShowLineage, c, mimiport.IDText(id), nil), req)
}

func (a *remote) Drift(ctx context.Context, c api.Caller, id []byte) (*api.Drift, error) {
	q := a.to(api.GetDrift, c, mimiport.IDText(id), nil)
	q.work = devicesWork
	return ask[api.Drift](ctx, a.client, q)
}

func (a *remote) RatchetTree(ctx context.Context, c api.Caller, id []byte, epoch uint64) ([]byte, error) {
	q := a.to(api.GetTree, c, mimiport.IDText(id), url.Values{"epoch": uintParam(epoch)})
	q.limit = maxRawAnswer
	_, tree, err := a.client.do(ctx, q)
	return tree, err
}

func (a *remote) Submit(
	ctx context.Context, c api.Caller, id []byte, req *api.SubmitRequest,
) (*api.SubmitResponse, error) {
	q := a.to(api.Submit, c, mimiport.IDText(id), nil)
	q.work = devicesWork
	return send[api.SubmitResponse](ctx, a, q, req)
}

func (a *remote) Messages(
	ctx context.Context, c api.Caller, id []byte, q api.MessagesQuery,
) (*api.MessagesResponse, error) {
	query := url.Values{}
	if q.From > 0 {
		query["from"] = uintParam(q.From)
	}
	if q.Limit > 0 {
		query["limit"] = uintParam(uint64(q.Limit))
	}
	if q.Term != nil {
		query["term"] = uintParam(*q.Term)
	}
	return ask[api.MessagesResponse](ctx, a.client, a.to(api.GetMessages, c, mimiport.IDText(id), query))
}

func (a *remote) RequestMigration(
	ctx context.Context, c api.Caller, req *api.MigrationRequestRequest,
) (*api.MigrationOffer, error) {
	return send[api.MigrationOffer](ctx, a, a.to(api.RequestMigration, c, "", nil), req)
}

func (a *remote) InitMigration(
	ctx context.Context, c api.Caller, id mimiport.MigrationID, req *api.MigrationInitRequest,
) (*api.MigrationStatus, error) {
	q := a.to(api.InitMigration, c, id.String(), nil)
	q.work = initWork
	return send[api.MigrationStatus](ctx, a, q, req)
}

func (a *remote) Migration(ctx context.Context, c api.Caller, id mimiport.MigrationID) (*api.MigrationStatus, error) {
	return ask[api.MigrationStatus](ctx, a.client, a.to(api.GetMigration, c, id.String(), nil))
}

func (a *remote) AbortMigration(
	ctx context.Context, c api.Caller, id mimiport.MigrationID,
) (*api.MigrationStatus, error) {
	return ask[api.MigrationStatus](ctx, a.client, a.to(api.AbortMigration, c, id.String(), nil))
}

func (a *remote) ConfirmMigration(
	ctx context.Context, c api.Caller, id mimiport.MigrationID, req *api.SignedRequest,
) (*api.MigrationStatus, error) {
	return send[api.MigrationStatus](ctx, a, a.to(api.ConfirmMigration, c, id.String(), nil), req)
}

func (a *remote) PutLastResort(
	ctx context.Context, c api.Caller, value *json.RawMessage,
) (*api.PutLastResortResponse, error) {
	return send[api.PutLastResortResponse](ctx, a, a.to(api.PutLastResort, c, "", nil), value)
}

func (a *remote) ClaimLastResorts(
	ctx context.Context, c api.Caller, req *api.ClaimLastResortsRequest,
) (*api.ClaimLastResortsResponse, error) {
	return send[api.ClaimLastResortsResponse](ctx, a, a.to(api.ClaimLastResorts, c, "", nil), req)
}
