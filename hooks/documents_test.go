package hooks

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/migration"
)

// documented returns the text of a document.
func documented(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDocumentedSections: the examples of a configuration in the documents switch the module on.
func TestDocumentedSections(t *testing.T) {
	examples := 0
	for _, path := range []string{"README.md", "docs/operator.md", "docs/scaling.md"} {
		blocks := regexp.MustCompile("(?ms)^( *)```yaml\n(.*?)^ *```").FindAllStringSubmatch(documented(t, path), -1)
		for _, block := range blocks {
			text := regexp.MustCompile("(?m)^"+block[1]).ReplaceAllString(block[2], "")
			if cfg, err := load(t, text); err != nil || !cfg.Enabled {
				t.Errorf("%s: %v in\n%s", path, err, text)
			}
			examples++
		}
	}
	if examples < 3 {
		t.Errorf("only %d examples", examples)
	}
}

// tableRow finds the rows of a table whose first two columns match.
func tableRow(name, value string) *regexp.Regexp {
	return regexp.MustCompile(`(?m)^\| ` + name + ` \| ` + value + ` \| `)
}

// TestDocumentedDefaults: a default that the README gives for a key or for a field of the policy is the default.
func TestDocumentedDefaults(t *testing.T) {
	want := defaultConfig()
	fields := want.Policy.Values()
	rows := tableRow("`([a-z_.]+)`", "`([^`|]*)`").FindAllStringSubmatch(documented(t, "README.md"), -1)
	if len(rows) < 20 {
		t.Fatalf("only %d rows", len(rows))
	}
	for _, row := range rows {
		path, text := row[1], row[2]
		if _, ok := fields[path]; ok {
			path = "policy." + path
		}
		for path != "" {
			dot := strings.LastIndex(path, ".")
			text, path = "{"+path[dot+1:]+": "+text+"}", path[:max(dot, 0)]
		}
		got, err := load(t, "mimi_portability: "+text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got.Policy.Set, got.Federation.AllowNetworks = nil, nil // no list of networks is the documented one
		if diff := cmp.Diff(&want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s is not the default: %s", text, diff)
		}
	}
}

// TestDocumentedKeys: the README has each key of the section and each field of the policy. The operator's guide has
// each quota with its default.
func TestDocumentedKeys(t *testing.T) {
	readme := documented(t, "README.md")
	section := reflect.TypeFor[Config]()
	for i := range section.NumField() {
		if key := section.Field(i).Tag.Get("yaml"); !strings.Contains(readme, "\n| `"+key) {
			t.Errorf("the README lacks the key %s", key)
		}
	}
	quotas := make(map[string]string)
	rows := tableRow("(`[a-z_`, ]+)", "([0-9, ]+)").FindAllStringSubmatch(documented(t, "docs/operator.md"), -1)
	for _, row := range rows {
		numbers := strings.Split(row[2], ", ")
		for i, name := range strings.Split(row[1], ", ") {
			quotas["quotas."+strings.Trim(name, "`")] = numbers[i]
		}
	}
	for path, value := range defaultConfig().Policy.Values() {
		if strings.HasPrefix(path, "quotas.") && quotas[path] != fmt.Sprint(value) {
			t.Errorf("the guide says that %s is %q, not %v", path, quotas[path], value)
		}
		if name, _, _ := strings.Cut(path, "."); !strings.Contains(readme, "\n| `"+name+"` | ") {
			t.Errorf("the README lacks the field %s", name)
		}
	}
}

// TestDocumentedStates: the operator's guide has a row for each state of a group.
func TestDocumentedStates(t *testing.T) {
	guide := documented(t, "docs/operator.md")
	_, table, _ := strings.Cut(guide, "| state | means |\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var states []migration.GroupState
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z]+)` ").FindAllStringSubmatch(table, -1) {
		states = append(states, migration.GroupState(row[1]))
	}
	if diff := cmp.Diff(migration.GroupStates, states); diff != "" {
		t.Errorf("the code has - and the guide +:\n%s", diff)
	}
}
