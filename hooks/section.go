package hooks

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v2"

	"github.com/matrix-org/dendrite/contrib/mimi/mimiport"
	"github.com/matrix-org/dendrite/contrib/mimi/mimiport/policy"
)

// sectionName is the section's key in dendrite.yaml.
const sectionName = "mimi_portability"

// badKey makes the error for a key of the section. It names the key's path, the value, and the remedy.
func badKey(path string, value any, format string, args ...any) error {
	shown := "this list or section"
	switch v := value.(type) {
	case yaml.MapSlice, []any:
	case string:
		shown = strconv.Quote(mimiport.Clip(v))
	default:
		shown = fmt.Sprint(v)
	}
	return fmt.Errorf("%s: %s %s", path, shown, fmt.Sprintf(format, args...))
}

// sectionOf returns the section in a configuration file, nil for none. A section without keys is none. It warns of a
// key that looks like a misspelt name of the section.
func sectionOf(text []byte) (section yaml.MapSlice, warnings []string, err error) {
	var file yaml.MapSlice
	if err := yaml.Unmarshal(text, &file); err != nil {
		return nil, nil, fmt.Errorf("%s: the file is not YAML: %w", sectionName, err)
	}
	found := false
	for _, item := range file {
		key, value := fmt.Sprint(item.Key), item.Value
		if key != sectionName {
			if distance(strings.ToLower(key), sectionName) <= 3 {
				warnings = append(warnings, fmt.Sprintf("%s: no part of this homeserver reads this section: write %s",
					mimiport.Clip(key), sectionName))
			}
			continue
		}
		if found {
			return nil, nil, fmt.Errorf("%s: the file has this section twice: join the two", sectionName)
		}
		found = true
		is := false
		if section, is = value.(yaml.MapSlice); !is && value != nil {
			return nil, nil, badKey(sectionName, value, "is not a section with keys: write enabled: true on a line below it")
		}
	}
	return section, warnings, nil
}

// requireType fails unless a value of YAML fits a type of Go: then the decoder cannot fail. A key without a value keeps
// its default.
func requireType(path string, value any, t reflect.Type) error {
	switch {
	case value == nil:
		return nil
	case t == reflect.TypeFor[Policy]():
		_, err := policyOf(value)
		return err
	case t == reflect.TypeFor[time.Duration]():
		text, _ := value.(string)
		if _, err := time.ParseDuration(text); err != nil {
			return badKey(path, value, "is not a time: write a number with a unit, such as 60s, 10m or 720h")
		}
		return nil
	}
	switch t.Kind() {
	case reflect.Pointer:
		return requireType(path, value, t.Elem())
	case reflect.Struct:
		return requireKeys(path, value, t)
	case reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			return badKey(path, value, "is not a list: write [first, second]")
		}
		for i, entry := range list {
			if err := requireType(fmt.Sprintf("%s[%d]", path, i), entry, t.Elem()); err != nil {
				return err
			}
		}
		return nil
	case reflect.Bool:
		if _, ok := value.(bool); !ok {
			return badKey(path, value, "is neither true nor false")
		}
		return nil
	case reflect.String:
		if _, ok := value.(string); !ok {
			return badKey(path, value, "is not a text: put it between quotes")
		}
		return nil
	}
	n, ok := value.(int)
	number := reflect.New(t).Elem()
	if number.CanUint() {
		ok = ok && n >= 0 && !number.OverflowUint(uint64(n))
	} else {
		ok = ok && !number.OverflowInt(int64(n))
	}
	if !ok {
		return badKey(path, value, "is not a whole number in range: write it without a unit")
	}
	return nil
}

// requireKeys fails unless a value of YAML is a section with keys of a struct, each once.
func requireKeys(path string, value any, t reflect.Type) error {
	section, ok := value.(yaml.MapSlice)
	if !ok {
		return badKey(path, value, "is not a section with keys")
	}
	fields, names := make(map[string]reflect.Type), []string(nil)
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("yaml")
		fields[name], names = t.Field(i).Type, append(names, name)
	}
	seen := make(map[string]bool)
	for _, item := range section {
		key := fmt.Sprint(item.Key)
		at := path + "." + mimiport.Clip(key)
		switch {
		case fields[key] == nil:
			return fmt.Errorf("%s: there is no such key: %s", at, suggest(key, names))
		case seen[key]:
			return fmt.Errorf("%s: the section has this key twice: keep one", at)
		}
		seen[key] = true
		if err := requireType(at, item.Value, fields[key]); err != nil {
			return err
		}
	}
	return nil
}

// suggest names the key that a misspelt one may mean, or all.
func suggest(key string, names []string) string {
	for _, name := range names {
		if distance(key, name) <= 2 {
			return "write " + name
		}
	}
	return "use one of " + strings.Join(names, ", ")
}

// distance is the number of characters to add, delete or replace between two words (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := corner
			if a[i] != b[j] {
				replaced++
			}
			corner = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// policyOf reads the policy of the section: a preset or fields.
func policyOf(value any) (p Policy, err error) {
	const path = sectionName + ".policy"
	if preset, ok := value.(string); ok {
		value = map[string]any{"preset": preset}
	}
	patch, err := json.Marshal(jsonable(value))
	if err != nil {
		return p, badKey(path, value, "is not a policy: write draft, default, or fields such as source: any_member")
	}
	p.Policy, err = policy.Default().Merge(patch)
	var bad *mimiport.Error
	if errors.As(err, &bad) {
		return p, fmt.Errorf("%s: %w", path, bad.Err)
	}
	p.Set = policy.Fields(patch)
	return p, err
}

// jsonable converts maps of YAML to those of JSON.
func jsonable(v any) any {
	switch v := v.(type) {
	case yaml.MapSlice:
		plain := make(map[string]any, len(v))
		for _, item := range v {
			plain[fmt.Sprint(item.Key)] = jsonable(item.Value)
		}
		return plain
	case []any:
		for i := range v {
			v[i] = jsonable(v[i])
		}
	}
	return v
}
