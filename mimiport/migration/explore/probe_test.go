package explore
import ("testing";"fmt";"time")
func TestProbe(t *testing.T) {
	for _, b := range []Bounds{{Terms:1, NoCommits:true},{Terms: 1}, {Terms: 1, Crashes: 1}, {Terms:1, Losses:1},{Terms:1,Duplicates:1},{Terms:1,Crashes:2,Losses:2,Duplicates:1},{Terms:2,NoCommits:true},{Terms:2}} {
		st := time.Now()
		r := Explore(b, "")
		fmt.Printf("%+v: %d states, depth %d, fair %d %s\n", b, r.States, r.Depth, r.Fair, time.Since(st))
		if r.Violation != "" {
			t.Fatalf("%s\n%s", r.Violation, r.Trace)
		}
	}
}
