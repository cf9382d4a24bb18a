package kill

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/federation"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery/deliverytest"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/mlstest"
)

// talk is a group whose members need no process of their own. The first two members act. They are on the two servers
// between which the group moves.
type talk struct {
	room    string
	members []*harness.User // by leaf
	servers [2]*harness.Server
	host    int // the server that has the group

	mls    *mlstest.Group
	latest uint64 // the number of the latest Commit in the log
}

// ask sends a request about the group to one of its servers, as the member on a server.
func (g *talk) ask(ctx context.Context, as, to int, method, route string, in, out any) error {
	path := clientapi.PathPrefix + "/ds/" + url.PathEscape(g.servers[to].Name) + route
	return g.members[as].Do(ctx, method, path, in, out)
}

func (g *talk) path() string { return "/groups/" + base64.RawURLEncoding.EncodeToString(g.mls.ID()) }

// bind makes the group at its host, as the member on the other server. If the group lists its host, the host may
// propose removals. A request of that server itself sends no event to the room: one for each group would take longer
// than all else.
func (g *talk) bind(ctx context.Context, client *http.Client, listed bool) error {
	as := 1 - g.host
	var reserved api.ReserveGroupResponse
	err := g.ask(ctx, as, g.host, http.MethodPost, "/groups", &api.ReserveGroupRequest{
		RoomID: g.room, SuiteRequest: api.SuiteRequest{Protocol: "mls10", CipherSuite: 1},
	}, &reserved)
	if err != nil {
		return err
	}
	o := mlstest.Options{GroupID: reserved.GroupID}
	if listed {
		o.Extensions = mlstest.ExternalSenders(reserved.ExternalSender)
	}
	for _, u := range g.members {
		o.Members = append(o.Members, mlstest.Identity(u.ID, u.DeviceID))
	}
	g.mls = mlstest.New(o)
	by, err := g.servers[as].Identity()
	if err != nil {
		return err
	}
	route := federation.PathPrefix + g.path() + "?user_id=" + url.QueryEscape(g.members[as].ID)
	r, err := g.servers[g.host].FederationRequest(ctx, by, http.MethodPut, route, &api.BindGroupRequest{
		Protocol: "mls10", GroupInfo: g.mls.GroupInfo(), RatchetTree: g.mls.RatchetTree(),
	})
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("bind a group: %s", answer.Status)
	}
	return nil
}

// act is act n of an hour: one of the first two members moves the group, commits, or sends a message.
func (g *talk) act(ctx context.Context, n int, moves bool) (moved bool, err error) {
	as := n / 2 % 2
	switch {
	case n%10 == 0 && moves:
		return true, g.move(ctx, as)
	case n%4 == 0:
		return false, g.commit(ctx, as, nil)
	}
	_, err = g.submit(ctx, as, &api.SubmitRequest{Message: g.mls.Application(nil, 32)})
	return false, err
}

func (g *talk) submit(ctx context.Context, as int, m *api.SubmitRequest) (seq uint64, err error) {
	var answer api.SubmitResponse
	err = g.ask(ctx, as, g.host, http.MethodPost, g.path()+"/messages", m, &answer)
	return answer.Seq, err
}

// commit sends a Commit of some proposals, and of those that the host demands.
func (g *talk) commit(ctx context.Context, as int, proposals [][]byte) error {
	c := g.mls.Commit(mlstest.CommitOptions{Sender: uint32(as), Path: true, References: proposals})
	seq, err := g.submit(ctx, as, &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo})
	if harness.RuleOf(err) == "pending-remove" && proposals == nil {
		if proposals, err = g.demands(ctx); err != nil {
			return err
		}
		return g.commit(ctx, as, proposals)
	}
	if err == nil {
		g.mls, g.latest = c.Next, seq
	}
	return err
}

// demands returns the host's proposals in the present epoch.
func (g *talk) demands(ctx context.Context) (messages [][]byte, err error) {
	for from, end := g.latest+1, false; !end; {
		var log api.MessagesResponse
		route := fmt.Sprintf("%s/messages?from=%d", g.path(), from)
		if err := g.ask(ctx, 0, g.host, http.MethodGet, route, nil, &log); err != nil {
			return nil, err
		}
		for _, m := range log.Messages {
			if m.Kind == "proposal" && m.Epoch == g.mls.Epoch() {
				messages = append(messages, m.Message)
			}
		}
		from, end = log.Next, log.End
	}
	return messages, nil
}

// letGo commits the removal of a member who has left the room.
func (g *talk) letGo(ctx context.Context, u *harness.User) error {
	leaf := uint32(slices.Index(g.members, u))
	return soon(ctx, func(ctx context.Context) error {
		if !slices.Contains(g.mls.Leaves(), leaf) {
			return nil
		}
		demands, err := g.demands(ctx)
		if err != nil || len(demands) == 0 {
			return errors.Join(err, errors.New("the host proposes no removal"))
		}
		return g.commit(ctx, 0, demands)
	})
}

// move moves the group to its other server, as a member, and waits until it is there.
func (g *talk) move(ctx context.Context, as int) error {
	target := 1 - g.host
	to := g.servers[target].Name
	request, err := (&mimiport.MigrationRequest{
		SourceDomain: g.servers[g.host].Name, TargetDomain: to, GroupID: g.mls.ID(), Epoch: g.mls.Epoch(),
	}).Marshal()
	if err != nil {
		return err
	}
	var offer api.MigrationOffer
	err = g.ask(ctx, as, target, http.MethodPost, "/migrations",
		&api.MigrationRequestRequest{MigrationRequest: request, RoomID: g.room}, &offer)
	if err != nil {
		return err
	}
	response, err := mimiport.UnmarshalMigrationResponse(offer.MigrationResponse)
	if err != nil {
		return err
	}
	aad, err := (&mimiport.MigrationCommitAAD{TargetDomain: to}).Marshal()
	if err != nil {
		return err
	}
	init, err := deliverytest.SignInit(g.mls, uint32(as), response)
	if err != nil {
		return err
	}
	c := g.mls.Commit(mlstest.CommitOptions{Sender: uint32(as), Path: true, AuthenticatedData: aad})
	err = g.await(ctx, as, offer.MigrationID, &api.MigrationInitRequest{
		MigrationInit: init, KeyID: offer.KeyID,
		SubmitRequest: api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo},
	})
	if err != nil {
		return err
	}
	g.mls, g.host, g.latest = c.Next, target, 0
	return soon(ctx, func(ctx context.Context) error {
		var there api.GroupResponse
		err := g.ask(ctx, as, g.host, http.MethodGet, g.path(), nil, &there)
		if err == nil && there.Epoch != g.mls.Epoch() {
			err = fmt.Errorf("the group is in epoch %d, not %d", there.Epoch, g.mls.Epoch())
		}
		return err
	})
}

// await begins a migration and waits for the source's decision.
func (g *talk) await(ctx context.Context, as int, id string, init *api.MigrationInitRequest) error {
	var status api.MigrationStatus
	err := g.ask(ctx, as, g.host, http.MethodPut, "/migrations/"+id+"/init", init, &status)
	for err == nil && status.State == string(migration.Frozen) {
		err = g.ask(ctx, as, g.host, http.MethodGet, "/migrations/"+id, nil, &status)
	}
	if err == nil && status.State != string(migration.Moved) && status.State != string(migration.Decided) {
		err = fmt.Errorf("the move to %s ended as %s: %s", g.servers[1-g.host].Name, status.State, status.Reason)
	}
	return err
}

// soon calls try until it succeeds, for twice harness.Patience. It returns the errors of the last two calls, since the
// last may only say that the time is over.
func soon(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*harness.Patience)
	defer cancel()
	var before, last error
	err := harness.Poll(ctx, func(ctx context.Context) error {
		before, last = last, try(ctx)
		return last
	})
	if err != nil {
		err = errors.Join(before, err)
	}
	return err
}
