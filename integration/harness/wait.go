package harness

import (
	"context"
	"time"
)

// Wait returns after a time, or when the context ends.
func Wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Breathe waits for 50 ms, so that a loop of attempts does not use a whole processor.
func Breathe(ctx context.Context) { Wait(ctx, 50*time.Millisecond) }

// Poll calls try until try succeeds or the context ends. It returns the error of the last call.
func Poll(ctx context.Context, try func(context.Context) error) error {
	for {
		err := try(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		Breathe(ctx)
	}
}
