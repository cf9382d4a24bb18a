// Command bench reads the output of go test -bench from standard input, and passes it on to standard error. At the end
// it prints one table in Markdown: each row has two figures of that run and their ratio. docs/scaling.md repeats the
// table. The command fails if a figure is missing or a goal is missed.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

func main() {
	if err := run(io.TeeReader(os.Stdin, os.Stderr), os.Stdout, rows); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, rows []row) error {
	measured, err := read(in)
	if err != nil {
		return err
	}
	lines := [][]string{{"", "compares", "before", "after", "ratio", "goal"}}
	var errs []error
	for _, r := range rows {
		line, err := r.line(measured)
		lines, errs = append(lines, line), append(errs, err)
	}
	return errors.Join(append(errs, write(out, lines))...)
}

// module is the path that the names of packages begin with.
const module = "github.com/matrix-org/dendrite/contrib/mimi/"

// result matches a benchmark's name and number of runs. The name may end with the number of processors.
var result = regexp.MustCompile(`^(Benchmark\S*?)(?:-\d+)?\s+\d+\s+(.+)$`)

// read returns the value of each metric by "package benchmark unit". Of repeated runs the last one counts.
func read(in io.Reader) (measured map[string]float64, err error) {
	measured = make(map[string]float64)
	place, lines := "", bufio.NewScanner(in)
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "pkg: "+module); ok {
			place = name
		}
		found := result.FindStringSubmatch(lines.Text())
		if found == nil {
			continue
		}
		metrics := strings.Fields(found[2])
		for i := 0; i+1 < len(metrics); i += 2 {
			value, err := strconv.ParseFloat(metrics[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", place, found[1], err)
			}
			measured[place+" "+found[1]+" "+metrics[i+1]] = value
		}
	}
	return measured, lines.Err()
}

// line returns the cells of a row. The error names missing figures, or the goal that is missed.
func (r row) line(measured map[string]float64) (cells []string, err error) {
	before, hasBefore := measured[r.before.key()]
	after, hasAfter := measured[r.after.key()]
	cells = []string{r.name, r.compares, r.before.show(before, hasBefore), r.after.show(after, hasAfter), "",
		r.goal.String()}
	if !hasBefore || !hasAfter {
		return cells, fmt.Errorf("%s: %s or %s is missing", r.name, r.before.key(), r.after.key())
	}
	ratio := after / before
	cells[4] = short(ratio)
	if !r.goal.holds(ratio) {
		err = fmt.Errorf("%s: the ratio is %s, the goal is %s", r.name, cells[4], r.goal)
	}
	return cells, err
}

func (f figure) key() string { return f.benchmark + " " + f.unit }

func (f figure) show(value float64, has bool) string {
	if !has {
		return "missing"
	}
	return short(value) + " " + f.unit
}

// short writes a number with three significant digits.
func short(value float64) string {
	if value >= 100 {
		return strconv.FormatFloat(value, 'f', 0, 64)
	}
	return strconv.FormatFloat(value, 'g', 3, 64)
}

func (g goal) holds(ratio float64) bool {
	return ratio >= g.atLeast && (g.atMost == 0 || ratio <= g.atMost)
}

func (g goal) String() string {
	if g.atMost > 0 {
		return "≤ " + short(g.atMost)
	}
	return "≥ " + short(g.atLeast)
}

// write prints lines of cells, the first of which is the heading, in columns of equal width.
func write(out io.Writer, lines [][]string) error {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var text strings.Builder
	for n, line := range lines {
		for i, cell := range line {
			fmt.Fprintf(&text, "| %s ", pad(cell, widths[i]))
		}
		text.WriteString("|\n")
		if n == 0 {
			for _, width := range widths {
				text.WriteString("|" + strings.Repeat("-", width+2))
			}
			text.WriteString("|\n")
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}

func pad(cell string, width int) string {
	return cell + strings.Repeat(" ", width-utf8.RuneCountInString(cell))
}
