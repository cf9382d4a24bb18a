package harness

import (
	"context"
	"time"
)

// Wait lets a time pass, or returns when the context ends.
func Wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Breathe waits for 50 ms, so that whoever tries again and again does not take every processor.
func Breathe(ctx context.Context) { Wait(ctx, 50*time.Millisecond) }

// Poll tries until it succeeds. It returns the last failure when the context ends before that.
func Poll(ctx context.Context, try func(context.Context) error) error {
	for {
		err := try(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		Breathe(ctx)
	}
}
