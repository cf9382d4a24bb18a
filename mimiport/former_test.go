package mimiport

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestKeepLast: KeepLast keeps as much of the end of the log as both bounds allow, and at least the last message. It
// keeps exactly the Welcomes whose Commits it keeps.
func TestKeepLast(t *testing.T) {
	size := func(f *Former) (n int) {
		for i := range f.Log {
			n += len(f.Log[i].Message) + len(f.Log[i].Receipt)
		}
		for i := range f.Welcomes {
			n += len(f.Welcomes[i].Welcome)
		}
		return n
	}
	rapid.Check(t, func(t *rapid.T) {
		var whole Former
		message := func(name string) []byte { return bytes.Repeat([]byte{1}, rapid.IntRange(1, 9).Draw(t, name)) }
		seq := uint64(1)
		for epoch := range rapid.Uint64Range(1, 5).Draw(t, "epochs") {
			for range rapid.IntRange(1, 3).Draw(t, "messages") {
				whole.Log = append(whole.Log, LogEntry{Seq: seq, Epoch: epoch, Message: message("message")})
				seq++
			}
			if rapid.Bool().Draw(t, "adds") {
				whole.Welcomes = append(whole.Welcomes, Joiners{Epoch: epoch + 1, Welcome: message("welcome")})
				seq++
			}
		}
		messages, bytes := rapid.IntRange(0, 9).Draw(t, "most messages"), rapid.IntRange(0, 60).Draw(t, "most bytes")
		kept := Former{slices.Clone(whole.Log), slices.Clone(whole.Welcomes)}
		kept.KeepLast(messages, bytes)
		fits := func(f *Former) bool { return len(f.Log) <= messages && size(f) <= bytes }
		if n := len(kept.Log); n == 0 || n > 1 && !fits(&kept) {
			t.Fatalf("%d messages of %d bytes are kept", n, size(&kept))
		}
		first := len(whole.Log) - len(kept.Log)
		if kept.Log[0].Seq != whole.Log[first].Seq {
			t.Fatal("the kept messages are not the end of the log")
		}
		placed := 0
		for i := range kept.Log {
			if kept.WelcomeTo(i) != nil {
				placed++
			}
		}
		if placed != len(kept.Welcomes) {
			t.Fatalf("%d of %d Welcomes have their Commit", placed, len(kept.Welcomes))
		}
		if first == 0 {
			return
		}
		more := Former{whole.Log[first-1:], kept.Welcomes}
		if w := whole.WelcomeTo(first - 1); w != nil {
			more.Welcomes = append([]Joiners{*w}, more.Welcomes...)
		}
		if fits(&more) {
			t.Fatal("KeepLast could have kept one more message")
		}
	})
}
