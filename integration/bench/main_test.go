package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sample is the output of go test -bench. A row of it lacks a figure, and another one misses its goal.
const sample = `goos: linux
pkg: github.com/matrix-org/dendrite/contrib/mimi/one
BenchmarkA/x=1-2         	       3	   1000 ns/op	        50.00 s
BenchmarkA/x=2-2         	       3	   1000 ns/op	         0.5 s	 7 B/op
pkg: github.com/matrix-org/dendrite/contrib/mimi/other
BenchmarkA/x=2           	     100	   1234 µs/op
PASS
`

func TestTable(t *testing.T) {
	one := func(n int, unit string) figure { return figure{fmt.Sprintf("one BenchmarkA/x=%d", n), unit} }
	var table strings.Builder
	err := run(strings.NewReader(sample), &table, []row{
		{"good", "slow, fast", one(1, "s"), one(2, "s"), goal{atMost: 0.1}},
		{"missed", "ns, µs", one(1, "ns/op"), figure{"other BenchmarkA/x=2", "µs/op"}, goal{atLeast: 2}},
		{"lacking", "", one(1, "B/op"), one(2, "B/op"), goal{atLeast: 1}},
	})
	const want = `|         | compares   | before     | after      | ratio | goal  |
|---------|------------|------------|------------|-------|-------|
| good    | slow, fast | 50 s       | 0.5 s      | 0.01  | ≤ 0.1 |
| missed  | ns, µs     | 1000 ns/op | 1234 µs/op | 1.23  | ≥ 2   |
| lacking |            | missing    | 7 B/op     |       | ≥ 1   |
`
	if table.String() != want {
		t.Errorf("got\n%swant\n%s", table.String(), want)
	}
	const missed = "missed: the ratio is 1.23, the goal is ≥ 2\nlacking: one BenchmarkA/x=1 B/op or " +
		"one BenchmarkA/x=2 B/op is missing"
	if err == nil || err.Error() != missed {
		t.Errorf("got %v, want %s", err, missed)
	}
}

// Each row names benchmarks that exist, and docs/scaling.md repeats its words and its goal.
func TestRows(t *testing.T) {
	scaling, err := os.ReadFile("../../docs/scaling.md")
	if err != nil {
		t.Fatal(err)
	}
	repeated := map[string]bool{}
	for line := range strings.Lines(string(scaling)) {
		cells := strings.Split(strings.Trim(line, "| \n"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) == 6 {
			repeated[fmt.Sprint(cells[0], cells[1], cells[5])] = true
		}
	}
	for _, r := range rows {
		if !repeated[fmt.Sprint(r.name, r.compares, r.goal)] {
			t.Errorf("docs/scaling.md does not repeat the row %q", r.name)
		}
		for _, f := range []figure{r.before, r.after} {
			requireBenchmark(t, f.benchmark)
		}
	}
}

func requireBenchmark(t *testing.T, benchmark string) {
	t.Helper()
	place, name, _ := strings.Cut(benchmark, " ")
	name, _, _ = strings.Cut(name, "/")
	files, err := filepath.Glob(filepath.Join("../..", place, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		code, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(code), "\nfunc "+name+"(b *testing.B)") {
			return
		}
	}
	t.Errorf("there is no %s in %s", name, place)
}
