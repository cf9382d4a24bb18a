package draft09

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/delivery"
)

// outcome is how a migration has ended.
type outcome struct {
	State  string `json:"state"` // moved, aborted
	Reason string `json:"reason,omitempty"`
}

// migrate has the group moved, with what has been proposed (profile, sections 5 and 6).
func (c *client) migrate(ctx context.Context, cmd *command) (any, error) {
	if err := c.catchUp(ctx); err != nil {
		return nil, err
	}
	source := c.group.ds
	offer, err := c.offer(ctx, source, cmd.Target)
	if err != nil {
		return nil, err
	}
	init, err := c.init(offer, cmd.Target)
	if err != nil {
		return nil, err
	}
	route := "/migrations/" + offer.MigrationID
	status := new(delivery.MigrationStatus)
	if err := c.ask(ctx, source, http.MethodPut, route+"/init", init, status); err != nil {
		return nil, err
	}
	for status.Confirmation == nil && status.Abort == nil {
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
		if err := c.ask(ctx, source, http.MethodGet, route, nil, status); err != nil {
			return nil, err
		}
	}
	if status.Confirmation == nil {
		return &outcome{"aborted", status.Reason}, nil
	}
	return &outcome{State: "moved"}, c.confirm(ctx, cmd.Target, route, status.Confirmation)
}

// offer asks the target for an offer.
func (c *client) offer(ctx context.Context, source, target string) (*delivery.MigrationOffer, error) {
	request, err := (&mimiport.MigrationRequest{SourceDomain: source, TargetDomain: target, GroupID: c.group.id, Epoch: c.member.Epoch()}).Marshal()
	if err != nil {
		return nil, err
	}
	offer := new(delivery.MigrationOffer)
	return offer, c.ask(ctx, target, http.MethodPost, "/migrations",
		&delivery.MigrationRequestRequest{MigrationRequest: request, RoomID: c.group.room}, offer)
}

// init makes the MigrationInit and the Commit that goes with it.
func (c *client) init(offer *delivery.MigrationOffer, target string) (*delivery.MigrationInitRequest, error) {
	response, err := mimiport.UnmarshalMigrationResponse(offer.MigrationResponse)
	if err != nil {
		return nil, err
	}
	init := &mimiport.MigrationInit{Response: *response}
	tbs, err := init.TBS()
	if err != nil {
		return nil, err
	}
	if init.Signature, err = c.member.Sign(mimiport.MigrationInitLabel, tbs); err != nil {
		return nil, err
	}
	encoded, err := init.Marshal()
	if err != nil {
		return nil, err
	}
	aad, err := (&mimiport.MigrationCommitAAD{TargetDomain: target}).Marshal()
	if err != nil {
		return nil, err
	}
	commit, err := c.member.Commit(aad, c.group.proposals...)
	if err != nil {
		return nil, err
	}
	return &delivery.MigrationInitRequest{MigrationInit: encoded, KeyID: offer.KeyID, SubmitRequest: *submission(commit)}, nil
}

// confirm goes to the target and shows it the source's decision.
func (c *client) confirm(ctx context.Context, target, route string, confirmation *delivery.SignedInfo) error {
	if err := c.catchUp(ctx); err != nil {
		return err
	}
	if c.group.ds != target {
		return fmt.Errorf("the log of %s ends without the migration Commit", c.group.ds)
	}
	return c.ask(ctx, target, http.MethodPut, route+"/confirmation", (*delivery.SignedRequest)(confirmation), nil)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
