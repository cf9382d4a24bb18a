// Package houserules holds the tests of the tree itself: that packages import in one direction, and that what the documents
// say is tested is tested.
package houserules

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	root    = "../.."
	module  = "github.com/matrix-org/dendrite/contrib/mimi"
	host    = "github.com/matrix-org/dendrite"
	anybody = "*"
)

// mayImport is the diagram in DESIGN.md: which places of this module a place may import besides itself. A package belongs to the
// longest place that it is in.
var mayImport = map[string][]string{
	"mimiport/wire":             {},
	"mimiport":                  {"mimiport/wire"},
	"mimiport/internal/vectors": {"mimiport/wire", "mimiport", "internal/hexjson"},
	"mimiport/mls":              {"mimiport/wire", "mimiport"},
	"mimiport/mls/draft09":      {"mimiport/wire", "mimiport", "mimiport/mls"}, // for commands alone
	"mimiport/migration":        {"mimiport"},
	"mimiport/policy":           {"mimiport", "mimiport/migration"},
	"mimiport/api":              {"mimiport"},
	"storage":                   {"mimiport/wire", "mimiport", "mimiport/migration"},
	"mimiport/outbox":           {"mimiport", "storage"},
	"mimiport/delivery":         {"mimiport", "mimiport/mls", "mimiport/migration", "mimiport/policy", "mimiport/api", "storage"},
	"mimiport/edge":             {"mimiport", "mimiport/api"},
	"federation":                {"mimiport", "mimiport/api", "mimiport/edge"},
	"clientapi":                 {"mimiport", "mimiport/migration", "mimiport/api", "mimiport/delivery", "mimiport/edge"},
	"adminapi":                  {"mimiport", "mimiport/migration", "mimiport/api", "mimiport/policy", "mimiport/edge", "storage"},
	"cmd/mimictl":               {"mimiport/wire", "mimiport", "mimiport/mls", "mimiport/mls/draft09", "mimiport/api", "mimiport/delivery", "storage", "federation", "internal/hexjson"},
	"cmd/dendrite-mimi":         {"hooks", "mimiport/mls", "mimiport/mls/draft09"},
	"hooks": {
		"mimiport", "mimiport/mls", "mimiport/migration", "mimiport/policy", "mimiport/api", "mimiport/delivery", "mimiport/outbox",
		"mimiport/edge", "storage", "federation", "clientapi", "adminapi",
	},
	"integration":         {anybody},
	"internal/hexjson":    {},
	"internal/houserules": {},
}

// knowsHost lists the only places that depend on Dendrite.
var knowsHost = []string{"hooks", "cmd/dendrite-mimi", "integration"}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,Deps", "./...")
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

// within says whether a path is a place or below it.
func within(path, place string) bool { return path == place || strings.HasPrefix(path, place+"/") }

// ours is a package's path in this module.
func ours(importPath string) (path string, ok bool) { return strings.CutPrefix(importPath, module+"/") }

func placeOf(path string) (place string, found bool) {
	for p := range mayImport {
		if within(path, p) && len(p) >= len(place) {
			place, found = p, true
		}
	}
	return place, found
}

func TestNothingImportsAgainstTheArrows(t *testing.T) {
	for _, p := range packages(t) {
		path, ok := ours(p.ImportPath)
		if !ok {
			t.Errorf("%s is not below %s", p.ImportPath, module)
			continue
		}
		place, ok := placeOf(path)
		if !ok {
			t.Errorf("%s has no place in DESIGN.md", path)
			continue
		}
		for _, imported := range p.Imports {
			to, ok := ours(imported)
			if !ok {
				continue
			}
			toPlace, _ := placeOf(to)
			if toPlace != place && !slices.Contains(mayImport[place], toPlace) && !slices.Contains(mayImport[place], anybody) {
				t.Errorf("%s imports %s", path, to)
			}
		}
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
