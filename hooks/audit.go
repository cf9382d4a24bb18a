package hooks

import (
	"context"
	"log/slog"
	"time"
)

// The pauses between the audits of two groups. At the start the pause is short. Later a round takes a day, and a pause
// is at least firstPause.
const (
	firstPause = 100 * time.Millisecond
	auditRound = 24 * time.Hour
)

// audit makes the service check all hosted groups, one after the other. The first round is at the start, for changes
// while the homeserver was down. After that, each group has its turn once a day, since Dendrite does not send an event
// for every deleted device.
func audit(
	ctx context.Context, next func(ctx context.Context, after []byte, limit int) (last []byte, err error),
	log *slog.Logger,
) {
	pause, groups := firstPause, 0
	var last []byte
	for {
		at, err := next(ctx, last, 1)
		switch {
		case err != nil && ctx.Err() == nil:
			log.Error("cannot audit a group", "error", err)
		case at == nil: // end of the round
			pause, groups, last = max(firstPause, auditRound/time.Duration(groups+1)), 0, nil
		default:
			groups, last = groups+1, at
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
