package draft09

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/clientapi"
	"github.com/matrix-org/dendrite/contrib/mimi/integration/harness"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/api"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls"
	engine "github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/mls/draft09/draft09test"
)

// client is a device. It is in at most one group.
type client struct {
	user   *harness.User
	member *draft09test.Client
	group  *group // nil if the device is in no group
	since  string // the token for the next /sync
	inbox  []received
}

// received is an application message of another member.
type received struct {
	Sender string `json:"sender"`
	Text   string `json:"text"`
}

func (c *client) login(ctx context.Context, cmd *command) (any, error) {
	u := &harness.User{Server: &harness.Server{URL: cmd.Homeserver}, Token: cmd.Token}
	var who struct {
		UserID   string `json:"user_id"`
		DeviceID string `json:"device_id"`
	}
	if err := u.Do(ctx, http.MethodGet, "/_matrix/client/v3/account/whoami", nil, &who); err != nil {
		return nil, err
	}
	_, u.Server.Name, _ = strings.Cut(who.UserID, ":")
	u.ID, u.DeviceID = who.UserID, who.DeviceID
	c.user = u
	return nil, c.publish(ctx)
}

// publish makes the device's MLS key, and publishes it.
func (c *client) publish(ctx context.Context) error {
	identity, err := (&mimiport.LeafIdentity{UserID: c.user.ID, DeviceID: c.user.DeviceID}).Marshal()
	if err != nil {
		return err
	}
	if c.member, err = draft09test.NewClient(1, identity); err != nil {
		return err
	}
	return c.user.PublishKey(ctx, "ed25519", c.member.SignatureKey(), algorithm)
}

// ask sends a request to a Delivery Service through the user's own homeserver.
func (c *client) ask(ctx context.Context, ds, method, route string, in, out any) error {
	return c.user.Do(ctx, method, clientapi.PathPrefix+"/ds/"+url.PathEscape(ds)+route, in, out)
}

func (c *client) create(ctx context.Context, cmd *command) (any, error) {
	ds := c.user.Server.Name
	var reserved api.ReserveGroupResponse
	room := &api.ReserveGroupRequest{RoomID: cmd.Room}
	if err := c.ask(ctx, ds, http.MethodPost, "/groups", room, &reserved); err != nil {
		return nil, err
	}
	if err := c.member.Create(reserved.GroupID); err != nil {
		return nil, err
	}
	info, err := c.member.GroupInfo()
	if err != nil {
		return nil, err
	}
	g := &group{id: reserved.GroupID, room: cmd.Room, ds: ds, next: 1}
	bind := &api.BindGroupRequest{Protocol: engine.Protocol, GroupInfo: info}
	if err := c.ask(ctx, ds, http.MethodPut, g.route(), bind, nil); err != nil {
		return nil, err
	}
	c.group = g
	return c.state()
}

// join waits for a Welcome and joins its group.
func (c *client) join(ctx context.Context, _ *command) (any, error) {
	for c.group == nil {
		if err := c.sync(ctx); err != nil {
			return nil, err
		}
	}
	return c.state()
}

func (c *client) add(ctx context.Context, cmd *command) (any, error) {
	packages, err := c.claimKeyPackages(ctx, cmd.User)
	if err != nil {
		return nil, err
	}
	for _, keyPackage := range packages {
		if err := c.propose(ctx, func() ([]byte, error) { return c.member.Add(keyPackage) }); err != nil {
			return nil, err
		}
	}
	return c.update(ctx, cmd)
}

func (c *client) remove(ctx context.Context, cmd *command) (any, error) {
	g, err := c.view()
	if err != nil {
		return nil, err
	}
	for m := range g.Members() {
		if userOf(&m) != cmd.User {
			continue
		}
		if err := c.propose(ctx, func() ([]byte, error) { return c.member.Remove(m.Leaf) }); err != nil {
			return nil, err
		}
	}
	return c.update(ctx, cmd)
}

// proposeUpdate proposes an Update of the client's own leaf. Another member must commit it.
func (c *client) proposeUpdate(ctx context.Context, _ *command) (any, error) {
	err := c.propose(ctx, func() (message []byte, err error) {
		message, err = c.member.Update()
		c.group.update = message
		return message, err
	})
	if err != nil {
		return nil, err
	}
	return c.state()
}

// propose reads the log to its end, makes a proposal, and submits it.
func (c *client) propose(ctx context.Context, proposal func() ([]byte, error)) error {
	if err := c.catchUp(ctx); err != nil {
		return err
	}
	message, err := proposal()
	if err != nil {
		return err
	}
	return c.submit(ctx, &api.SubmitRequest{Message: message})
}

// update commits all pending proposals, with new keys for the client's own leaf.
func (c *client) update(ctx context.Context, _ *command) (any, error) {
	if err := c.catchUp(ctx); err != nil {
		return nil, err
	}
	commit, err := c.member.Commit(nil, c.group.proposals...)
	if err != nil {
		return nil, err
	}
	if err := c.submit(ctx, submission(commit)); err != nil {
		return nil, err
	}
	return c.state()
}

func submission(c *draft09test.Commit) *api.SubmitRequest {
	return &api.SubmitRequest{Message: c.Message, GroupInfo: c.GroupInfo, Welcome: c.Welcome}
}

func (c *client) send(ctx context.Context, cmd *command) (any, error) {
	message, err := c.member.Protect([]byte(cmd.Text))
	if err != nil {
		return nil, err
	}
	c.group.sent = message
	return nil, c.submit(ctx, &api.SubmitRequest{Message: message})
}

// submit submits a message, and reads the log to its end.
func (c *client) submit(ctx context.Context, req *api.SubmitRequest) error {
	if err := c.ask(ctx, c.group.ds, http.MethodPost, c.group.route()+"/messages", req, nil); err != nil {
		return err
	}
	return c.catchUp(ctx)
}

// waitFor calls /sync until find returns a message or the group's state.
func (c *client) waitFor(ctx context.Context, cmd *command) (any, error) {
	for {
		if found, err := c.find(cmd); found != nil || err != nil {
			return found, err
		}
		if err := c.sync(ctx); err != nil {
			return nil, fmt.Errorf("wait for %+v: %w", *cmd, err)
		}
	}
}

func (c *client) find(cmd *command) (any, error) {
	if cmd.Kind == "message" {
		for _, m := range c.inbox {
			if m.Text == cmd.Text {
				return m, nil
			}
		}
		return nil, nil
	}
	st, err := c.state()
	if err != nil || st.Epoch < cmd.Epoch || st.Term < cmd.Term || cmd.DS != "" && st.DS != cmd.DS {
		return nil, err
	}
	return st, nil
}

// view returns the group as a Delivery Service sees it.
func (c *client) view() (mls.Group, error) {
	if c.group == nil {
		return nil, errors.New("the client is in no group")
	}
	info, err := c.member.GroupInfo()
	if err != nil {
		return nil, err
	}
	return engine.New().Open(info, nil)
}

func (c *client) state() (*harness.GroupState, error) {
	g, err := c.view()
	if err != nil {
		return nil, err
	}
	st := &harness.GroupState{
		Group: base64.RawURLEncoding.EncodeToString(c.group.id), Room: c.group.room,
		DS: c.group.ds, Term: c.group.term, Epoch: c.member.Epoch(),
		EpochAuthenticator:      hex.EncodeToString(c.member.Authenticator()),
		TreeHash:                hex.EncodeToString(c.member.TreeHash()),
		ConfirmedTranscriptHash: hex.EncodeToString(c.member.ConfirmedTranscriptHash()),
	}
	for m := range g.Members() {
		st.Members = append(st.Members, harness.Member{User: userOf(&m)})
	}
	return st, nil
}

// userOf returns a member's Matrix user, or "" if the credential names none.
func userOf(m *mls.Member) string {
	id, err := mimiport.UnmarshalLeafIdentity(m.Identity)
	if err != nil {
		return ""
	}
	return id.UserID
}

func (c *client) dsInfo(ctx context.Context, cmd *command) (any, error) {
	var info json.RawMessage
	return &info, c.ask(ctx, cmd.DS, http.MethodGet, c.group.route(), nil, &info)
}

func (c *client) host(ctx context.Context, cmd *command) (any, error) {
	var host json.RawMessage
	return &host, c.ask(ctx, cmd.DS, http.MethodGet, c.group.route()+"/host", nil, &host)
}

// sync handles new to-device events. It waits at most a second for one.
func (c *client) sync(ctx context.Context) error {
	news, err := c.user.Sync(ctx, c.since, time.Second)
	if err != nil {
		return err
	}
	c.since = news.NextBatch
	for i := range news.ToDevice.Events {
		if err := c.heard(ctx, &news.ToDevice.Events[i]); err != nil {
			return err
		}
	}
	return nil
}
