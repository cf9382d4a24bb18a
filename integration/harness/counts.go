package harness

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

// Counts are the things that a homeserver's process holds.
type Counts struct {
	Heap       int64 // bytes in use after a garbage collection
	Resident   int64 // bytes of memory
	Files      int   // open file descriptors
	Goroutines int
}

// Counts collects the garbage of a running server and counts.
func (s *Server) Counts(ctx context.Context) (c Counts, err error) {
	if err := s.profile(ctx, "heap?gc=1&debug=1", "# HeapAlloc = ", &c.Heap); err != nil {
		return c, err
	}
	if err := s.profile(ctx, "goroutine?debug=1", "total ", &c.Goroutines); err != nil {
		return c, err
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.pid.Load()))
	if err != nil {
		return c, err
	}
	c.Files = len(files)
	c.Resident, err = s.memory("VmRSS:")
	return c, err
}

// profile reads the number after a text in one of the profiles that Go's runtime offers.
func (s *Server) profile(ctx context.Context, name, text string, number any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.pprof+"/debug/pprof/"+name, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	profile, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	_, after, _ := strings.Cut(string(profile), text)
	_, err = fmt.Sscan(after, number)
	return err
}
