package hooks

import (
	"context"
	"log/slog"
	"time"
)

// The pauses between two groups that are looked after: at the start, and at least later, when all of them take a day.
const (
	firstPause = 100 * time.Millisecond
	auditRound = 24 * time.Hour
)

// audit has the service look after one hosted group after the other: all of them at the start, for what happened while
// the homeserver was down, and then each once a day. Dendrite's events do not tell of every device that is gone.
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
			log.Error("a group could not be looked after", "error", err)
		case at == nil: // the round is over
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
