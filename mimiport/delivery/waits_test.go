package delivery

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
)

// Waiting returns the number of migrations that requests wait for.
func (s *Service) Waiting() int { return len(s.waits.m) }

// TestWaits: a waiting request hears of every change. The server holds no memory for a migration without a waiting
// request.
func TestWaits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w waits
		type request struct {
			changed <-chan struct{}
			end     func()
			told    bool
		}
		waiting := make(map[mimiport.MigrationID][]*request)
		ids := rapid.SampledFrom([]mimiport.MigrationID{{1}, {2}})
		t.Repeat(map[string]func(*rapid.T){
			"begin": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				end := w.begin(id)
				waiting[id] = append(waiting[id], &request{w.changed(id), end, false})
			},
			"end": func(t *rapid.T) {
				if id := ids.Draw(t, "id"); len(waiting[id]) > 0 {
					waiting[id][0].end()
					waiting[id] = waiting[id][1:]
				}
			},
			"change": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				w.notify(id)
				for _, r := range waiting[id] {
					r.told = true
				}
			},
			"": func(t *rapid.T) {
				for id, requests := range waiting {
					if _, kept := w.m[id]; kept != (len(requests) > 0) {
						t.Fatalf("%d wait, kept: %t", len(requests), kept)
					}
					for _, r := range requests {
						select {
						case <-r.changed:
							if !r.told {
								t.Fatal("told of no change")
							}
						default:
							if r.told {
								t.Fatal("not told")
							}
						}
					}
				}
			},
		})
	})
}
