// Package houserules has tests of the source tree itself. For example, the picture of the packages must be right,
// types must stay small, and tests that documents name must exist.
package houserules

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	root   = "../.."
	module = "github.com/matrix-org/dendrite/contrib/mimi"
	host   = "github.com/matrix-org/dendrite"
	design = root + "/DESIGN.md"
)

var update = flag.Bool("update", false, "draw the picture in DESIGN.md again")

// places lists the places in the picture. A package belongs to the longest place that is a prefix of its path. The
// picture leaves out integration, which may import anything.
var places = []string{
	"mimiport/wire", "mimiport", "mimiport/internal/vectors", "mimiport/mls", "mimiport/mls/draft09", "mimiport/migration",
	"mimiport/proof", "mimiport/policy", "mimiport/api", "mimiport/acl", "mimiport/registry", "mimiport/delivery",
	"mimiport/outbox", "mimiport/edge", "storage", "federation", "clientapi", "adminapi", "redirects", "hooks",
	"cmd/mimictl", "cmd/dendrite-mimi", "integration", "internal",
}

// knowsHost lists the only places that depend on Dendrite.
var knowsHost = []string{"hooks", "cmd/dendrite-mimi", "integration"}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string

	TestImports, XTestImports []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,Deps,TestImports,XTestImports", "./...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// within reports whether a path is a place or below it.
func within(path, place string) bool { return path == place || strings.HasPrefix(path, place+"/") }

// ours returns the path of a package in this module.
func ours(importPath string) (path string, ok bool) { return strings.CutPrefix(importPath, module+"/") }

func placeOf(path string) (place string) {
	for _, p := range places {
		if within(path, p) && len(p) >= len(place) {
			place = p
		}
	}
	return place
}

// arrows returns the imports between places, by importer, from go list.
func arrows(t *testing.T) map[string]map[string]bool {
	t.Helper()
	all := make(map[string]map[string]bool)
	for _, p := range packages(t) {
		path, ok := ours(p.ImportPath)
		if !ok {
			t.Errorf("%s is not below %s", p.ImportPath, module)
			continue
		}
		from := placeOf(path)
		if from == "" {
			t.Errorf("%s has no place in the picture", path)
			continue
		}
		if all[from] == nil {
			all[from] = make(map[string]bool)
		}
		for _, imported := range p.Imports {
			if to, ok := ours(imported); ok && placeOf(to) != from {
				all[from][placeOf(to)] = true
			}
		}
	}
	delete(all, "integration")
	return all
}

// draw makes the picture: one line for each place, with the places that it imports. A place stands below those that it
// imports.
func draw(t *testing.T, all map[string]map[string]bool) string {
	t.Helper()
	var b strings.Builder
	drawn := make(map[string]bool)
	for len(drawn) < len(all) {
		var level []string
		for place, imports := range all {
			missing := func(i string) bool { return !drawn[i] }
			if !drawn[place] && !slices.ContainsFunc(slices.Collect(maps.Keys(imports)), missing) {
				level = append(level, place)
			}
		}
		if level == nil {
			t.Fatal("the places import each other in a circle")
		}
		slices.Sort(level)
		for _, place := range level {
			drawn[place] = true
			b.WriteString(line(place, slices.Sorted(maps.Keys(all[place]))))
		}
	}
	return b.String()
}

// line wraps the imports of one place at 120 columns.
func line(place string, imports []string) string {
	const indent = 26
	text := fmt.Sprintf("%-*s ◄─", indent, place)
	width := indent + 3
	for _, i := range imports {
		if width+1+len(i) > 118 {
			text += fmt.Sprintf("\n%*s", indent+3, "")
			width = indent + 3
		}
		text += " " + i
		width += 1 + len(i)
	}
	return strings.TrimRight(text, " ") + "\n"
}

// TestPicture: the picture in DESIGN.md has exactly the imports of go list, and they go in one direction.
func TestPicture(t *testing.T) {
	document, err := os.ReadFile(design)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- picture -->\n```\n", "```\n"
	before, rest, ok := strings.Cut(string(document), begin)
	if !ok {
		t.Fatalf("DESIGN.md has no %q", begin)
	}
	have, after, _ := strings.Cut(rest, end)
	want := draw(t, arrows(t))
	if *update {
		if err := os.WriteFile(design, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != want {
		t.Errorf("the picture is\n%s\nand not\n%s\nIf the new arrows are wanted: "+
			"go test ./internal/houserules -run TestPicture -update", want, have)
	}
}

func TestOnlyThePlugKnowsDendrite(t *testing.T) {
	for _, p := range packages(t) {
		path, _ := ours(p.ImportPath)
		if slices.ContainsFunc(knowsHost, func(place string) bool { return within(path, place) }) {
			continue
		}
		for _, dep := range p.Deps {
			if within(dep, host) && !within(dep, module) {
				t.Errorf("%s depends on %s", path, dep)
			}
		}
	}
}

// TestInternalPackages: the table in DESIGN.md has exactly the internal packages of Dendrite that this module imports,
// with the places that import them.
func TestInternalPackages(t *testing.T) {
	used := make(map[string][]string) // by package: the places
	for _, p := range packages(t) {
		path, _ := ours(p.ImportPath)
		for by, imports := range map[string][]string{
			"`" + path + "`": p.Imports, "tests of `" + path + "`": slices.Concat(p.TestImports, p.XTestImports),
		} {
			for _, imported := range imports {
				if name, ok := strings.CutPrefix(imported, host+"/"); ok && within(name, "internal") {
					used["`"+name+"`"] = append(used["`"+name+"`"], by)
				}
			}
		}
	}
	document, err := os.ReadFile(design)
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(document), "<!-- internal packages -->\n")
	if !ok {
		t.Fatal("DESIGN.md has no table of internal packages")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	for _, row := range strings.Split(table, "\n")[2:] {
		cells := strings.Split(row, " | ")
		name := strings.TrimPrefix(cells[0], "| ")
		slices.Sort(used[name])
		if by := strings.Join(slices.Compact(used[name]), ", "); by != cells[1] {
			t.Errorf("DESIGN.md says that %s is used by %s, and go list says by %s", name, cells[1], by)
		}
		delete(used, name)
	}
	for name, by := range used {
		t.Errorf("DESIGN.md lacks %s, which is used by %v", name, by)
	}
}
